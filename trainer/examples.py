"""Encoded examples, kept in files beside the training rather than in memory: a million take no more of it than a thousand.

Where each stands and how long it is are in files too. These have no name any more once they are open, so nothing of them
is left however the process ends.
"""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import msgspec

IGNORED = -100
"""Label of a token that carries no loss (what torch's cross entropy leaves out)."""
_UNWRITTEN = 1 << 16
"""Bytes that are written together."""
_BYTES, _PAGE = 8, 1 << 12
"""Of a number, and numbers that are read together."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example: `labels[i]` is `tokens[i]` where it carries loss and `IGNORED` elsewhere."""

    id: str
    tokens: list[int]
    labels: list[int]
    weight: float
    new: bool

    @property
    def trained(self) -> int:
        """Number of tokens that carry loss."""
        return sum(label != IGNORED for label in self.labels)

    @property
    def answer(self) -> list[int]:
        """The tokens that carry loss."""
        return [label for label in self.labels if label != IGNORED]


class _File:
    """A file that grows at its end; what is added is written together, when it is enough or asked for."""

    def __init__(self, folder: Path | None) -> None:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as its owner is
        weakref.finalize(self, file.close)
        self._descriptor = file.fileno()
        self._waiting = bytearray()
        self._written = 0

    @property
    def size(self) -> int:
        return self._written + len(self._waiting)

    def append(self, content: bytes) -> None:
        """Raises `OSError` where the disk has no room for it."""
        self._waiting += content
        if len(self._waiting) >= _UNWRITTEN:
            self._write()

    def read(self, start: int, count: int) -> bytes:
        """So many bytes from there, fewer at the end."""
        if self._waiting:
            self._write()
        return os.pread(self._descriptor, count, start)

    def _write(self) -> None:
        while self._waiting:  # a disk that is nearly full takes a part
            count = os.pwrite(self._descriptor, self._waiting, self._written)
            self._written += count
            del self._waiting[:count]


class Numbers(Sequence[int]):
    """Whole numbers from 0 to 2^64 - 1 in a file. Read in order they come by the page."""

    def __init__(self, folder: Path | None = None, numbers: Iterable[int] = ()) -> None:
        self._file = _File(folder)
        self._length = 0
        self.total = 0
        """Their sum."""
        for number in numbers:
            self.append(number)

    def append(self, number: int) -> None:
        self._file.append(number.to_bytes(_BYTES, sys.byteorder))
        self._length += 1
        self.total += number

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._length))]
        index = range(self._length)[index]
        return int.from_bytes(self._file.read(index * _BYTES, _BYTES), sys.byteorder)

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self._length, _PAGE):
            count = min(_PAGE, self._length - start)
            yield from array("Q", self._file.read(start * _BYTES, count * _BYTES))


class StoredExamples(Sequence[Encoded]):
    """Examples that are read from the disk each time they are asked for. Their files lie in `folder`, or where temporary files do."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = _File(folder)
        self._ends = Numbers(folder)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Encoded)
        self.lengths = Numbers(folder)
        """Tokens of each example."""
        self.trained = 0
        """Tokens of all examples that carry loss."""

    def append(self, example: Encoded) -> None:
        """Add one. Raises `OSError` where the disk has no room for it."""
        self._file.append(self._encoder.encode(example))
        self._ends.append(self._file.size)
        self.lengths.append(len(example.tokens))
        self.trained += example.trained

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return self._decoder.decode(self._file.read(start, self._ends[index] - start))

    def __iter__(self) -> Iterator[Encoded]:
        return (self[index] for index in range(len(self)))


class Picked(Sequence[Encoded]):
    """Some of the examples that are stored. Their places lie in a file too, in `folder`."""

    def __init__(self, stored: StoredExamples, places: Iterable[int], folder: Path | None = None) -> None:
        self._stored = stored
        self._places = Numbers(folder, places)
        self.lengths = Numbers(folder, (stored.lengths[place] for place in self._places))
        """Tokens of each example."""

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self._stored[place] for place in self._places[index]]
        return self._stored[self._places[index]]


def lengths_of(examples: Sequence[Encoded]) -> Sequence[int]:
    """Tokens of each example, without reading those that are stored."""
    if isinstance(examples, StoredExamples | Picked):
        return examples.lengths
    return [len(one.tokens) for one in examples]
