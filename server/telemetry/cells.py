"""One worker's numbers, kept where every other worker can read them: a file of named doubles, mapped into memory.

Adding to a number is one store into the mapping, so a killed worker takes nothing with it. The owner holds a flock
that the kernel frees when it dies. A file that nobody owns still counts, and the next worker that starts takes it over
and counts on: so sums never go backwards, and there are no more files than workers lived at once.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)
# Fixed, and set aside on the disk at once: a mapping with a hole in it kills its process when the disk is full.
SIZE = 1 << 20
"""Bytes of one worker's file: room for several hundred versions."""
_SUFFIX = ".cells"
_START = 8  # behind the number of bytes in use
_used = struct.Struct("=Q")
_head = struct.Struct("=II")  # bytes of the name, doubles behind it


class Reading(NamedTuple):
    """What one worker has counted."""

    values: dict[str, list[float]]
    alive: bool
    """Its owner lives: what it says of its present state counts."""


class Cells:
    """The numbers of one worker. Names and numbers are added by one thread, and may be read by any."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Of an open file of `SIZE` bytes, whose lock is held; without one, in memory of this process alone."""
        self._descriptor = descriptor
        self._map = mmap.mmap(-1, SIZE) if descriptor is None else mmap.mmap(descriptor, SIZE)
        self._bytes = memoryview(self._map)
        self._places = {name: (at, count) for name, at, count in _records(self._bytes)}
        self._full = False

    @classmethod
    def take(cls, directory: Path) -> Cells:
        """A file of this process's own: one whose owner died, or a new one.

        Where none can be made, for want of space or rights, this worker counts for itself alone, and the log says so.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for number in itertools.count():
                descriptor = _own(directory / f"{number}{_SUFFIX}")
                if descriptor is not None:
                    return cls(descriptor)
        except OSError as error:
            _log.warning("%s: this worker's metrics stay with it (%s)", directory, error.strerror)
        return cls()

    def of(self, name: str, count: int) -> memoryview[float]:
        """The doubles of that name, as they stand; zeros when it is new."""
        place = self._places.get(name)
        if place is None:
            place = self._add(name.encode(), count)
            if place is None:
                return memoryview(bytearray(8 * count)).cast("d")
            self._places[name] = place
        at, _ = place
        return self._bytes[at : at + 8 * count].cast("d")

    @property
    def shared(self) -> bool:
        """Other workers see it."""
        return self._descriptor is not None

    def names(self) -> list[str]:
        """All names that stand in it."""
        return list(self._places)

    def read(self) -> Reading:
        """What stands in it."""
        return Reading(_values(self._bytes), True)

    def close(self) -> None:
        """Leave the file to whoever comes next."""
        if self._descriptor is not None:
            # Closing alone would not do it: the mapping holds the file too.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def _add(self, name: bytes, count: int) -> tuple[int, int] | None:
        """Append a record; it stands once the number of bytes in use, written last, goes over it."""
        (used,) = _used.unpack_from(self._bytes)
        start = used or _START
        at = start + _head.size + _padded(len(name))
        end = at + 8 * count
        if end > SIZE:
            if not self._full:
                _log.error(
                    "there is no room for another metric of a version; restart the gateway to count it"
                )
            self._full = True
            return None
        _head.pack_into(self._bytes, start, len(name), count)
        self._bytes[start + _head.size : at] = name.ljust(at - start - _head.size, b" ")
        self._bytes[at:end] = bytes(8 * count)
        self._bytes[:_START].cast("Q")[0] = end
        return at, count


def read_all(directory: Path) -> list[Reading]:
    """What all workers have counted that share the directory, dead ones too."""
    readings = []
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < SIZE:  # being made just now
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(file, fcntl.LOCK_UN)
                alive = False
            except BlockingIOError:
                alive = True
            with (
                mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as view,
            ):
                readings.append(Reading(_values(view), alive))
    return readings


def _own(path: Path) -> int | None:
    """A descriptor that holds the file's lock; None while another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, SIZE)
        else:
            os.ftruncate(descriptor, SIZE)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.ENOSPC:
            path.unlink(missing_ok=True)
        raise
    return descriptor


def _values(view: memoryview) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for name, at, count in _records(view):
        with view[at : at + 8 * count] as part, part.cast("d") as doubles:
            values[name] = list(doubles)
    return values


def _records(view: memoryview) -> Iterator[tuple[str, int, int]]:
    """Name, place and number of doubles of each record."""
    (used,) = _used.unpack_from(view)
    start = _START
    while start < used:
        length, count = _head.unpack_from(view, start)
        name = bytes(view[start + _head.size : start + _head.size + length]).decode()
        at = start + _head.size + _padded(length)
        yield name, at, count
        start = at + 8 * count


def _padded(length: int) -> int:
    return -(-length // 8) * 8
