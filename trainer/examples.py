"""Encoded examples, kept in a file beside the training rather than in memory: a million take no more of it than a thousand.

In memory stand a place, a length and a number of trained tokens for each, 16 bytes together. The file has no name any
more once it is open, so nothing of it is left however the process ends.
"""

from __future__ import annotations

import os
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
_UNWRITTEN = 1 << 20
"""Bytes that are written together."""


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


class StoredExamples(Sequence[Encoded]):
    """Examples that are read from the disk each time they are asked for. Its file lies in `folder`, or where temporary files do."""

    def __init__(self, folder: Path | None = None) -> None:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as its examples are
        weakref.finalize(self, file.close)
        self._descriptor = file.fileno()
        self._ends = array("Q")
        self._waiting = bytearray()
        self._written = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Encoded)
        self.lengths = array("I")
        """Tokens of each example."""
        self.trained = 0
        """Tokens of all examples that carry loss."""

    def append(self, example: Encoded) -> None:
        """Add one. Raises `OSError` where the disk has no room for it."""
        self._waiting += self._encoder.encode(example)
        self._ends.append(self._written + len(self._waiting))
        self.lengths.append(len(example.tokens))
        self.trained += example.trained
        if len(self._waiting) >= _UNWRITTEN:
            self._write()

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
        if self._waiting:
            self._write()
        start = self._ends[index - 1] if index else 0
        return self._decoder.decode(os.pread(self._descriptor, self._ends[index] - start, start))

    def __iter__(self) -> Iterator[Encoded]:
        return (self[index] for index in range(len(self)))

    def _write(self) -> None:
        while self._waiting:  # a disk that is nearly full takes a part
            count = os.pwrite(self._descriptor, self._waiting, self._written)
            self._written += count
            del self._waiting[:count]


class Picked(Sequence[Encoded]):
    """Some of the examples that are stored, eight bytes each."""

    def __init__(self, stored: StoredExamples, places: Iterable[int]) -> None:
        self._stored = stored
        self._places = array("I", places)
        self.lengths = array("I", (stored.lengths[place] for place in self._places))
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
