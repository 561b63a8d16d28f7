"""How far a journal has come: three numbers in a small file that its owner has in memory.

`standing` is the last record that was acknowledged, `drained` the last one that is in the database, `wanted` the last one
that an erasure wants gone from the files. Each is one word that is stored by one instruction: it needs no system call,
`kill -9` does not undo it and never leaves half of it. A checksum in the word tells a damaged one from a number.
"""

from __future__ import annotations

import mmap
import os
from binascii import crc_hqx
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".marks"
_BITS = 48
_SIZE = 64
_STANDING, _DRAINED, _WANTED = range(3)


class Numbers(NamedTuple):
    """The marks at one moment; None for one that is damaged, or of a journal without the file."""

    standing: int | None
    drained: int | None
    wanted: int | None


class Marks:
    """The marks of a journal that this process owns."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises `OSError`."""
        self._descriptor = os.open(path.with_suffix(SUFFIX), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self._descriptor).st_size < _SIZE:
                # Written rather than made longer: a page without a place on the disk could not be stored to later.
                none = _word(0).to_bytes(8, "little")
                if os.pwrite(self._descriptor, none * (_SIZE // 8), 0) < _SIZE:
                    raise OSError("no room for a journal's marks")
            self._map = mmap.mmap(self._descriptor, _SIZE)
        except OSError:
            os.close(self._descriptor)
            raise
        self._words = memoryview(self._map).cast("Q")

    @property
    def standing(self) -> int | None:
        return _number(self._words[_STANDING])

    @standing.setter
    def standing(self, number: int) -> None:
        self._words[_STANDING] = _word(number)

    @property
    def drained(self) -> int | None:
        return _number(self._words[_DRAINED])

    @drained.setter
    def drained(self, number: int) -> None:
        self._words[_DRAINED] = _word(number)

    @property
    def wanted(self) -> int:
        return _number(self._words[_WANTED]) or 0

    def sync(self) -> None:
        """Return when they stand on the disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self._descriptor)


def read_marks(path: Path) -> Numbers:
    """The marks of any journal, its owner running or not."""
    try:
        words = memoryview(path.with_suffix(SUFFIX).read_bytes()[:_SIZE]).cast("Q")
    except (FileNotFoundError, TypeError):  # TypeError: it was cut
        return Numbers(None, None, None)
    if len(words) <= _WANTED:
        return Numbers(None, None, None)
    return Numbers(_number(words[_STANDING]), _number(words[_DRAINED]), _number(words[_WANTED]))


def write_marks(path: Path, standing: int | None, drained: int | None) -> None:
    """The file of a copy."""
    words = [_word(number) if number is not None else 0 for number in (standing, drained, 0)]
    body = b"".join(word.to_bytes(8, "little") for word in words)
    path.with_suffix(SUFFIX).write_bytes(body.ljust(_SIZE, b"\0"))


def want_gone(path: Path, number: int) -> None:
    """Ask the owner to let go of the files that hold records up to a number, once those are drained. Raises `OSError`."""
    descriptor = os.open(path.with_suffix(SUFFIX), os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, _word(number).to_bytes(8, "little"), 8 * _WANTED)
    finally:
        os.close(descriptor)


def _word(number: int) -> int:
    return number | crc_hqx(number.to_bytes(_BITS // 8, "little"), 0xFFFF) << _BITS


def _number(word: int) -> int | None:
    number = word & ((1 << _BITS) - 1)
    return number if _word(number) == word else None
