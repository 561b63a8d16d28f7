"""The files that a journal's owner writes: one at a time, the drained ones deleted whole.

Nothing here is rewritten or deleted record by record, so writing costs the same however much stands or goes. The caller
takes care that one thread at a time is in here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from feedback.storage.frames import SEGMENT_HEAD, pack, seed, segment_head
from feedback.storage.journal_file import segment_path, sync_folder

LARGEST = 8 << 20
"""Bytes after which a new segment begins: drained again at most when an owner dies, and a few milliseconds to delete."""
_SMALLEST = 4096


class FullError(OSError):
    """The journal has reached the most that it may take."""


class Segments:
    """The segments of a journal, the last of them open for writing."""

    def __init__(self, journal: Path, limit: int, durable: bool) -> None:
        """Begin with an empty segment; with `durable` every write waits for the disk. Raises `OSError`."""
        self._journal = journal
        self._seed = seed(journal.name)
        self._limit = limit
        self._largest = min(LARGEST, max(limit // 8, _SMALLEST))
        self._durable = durable
        self._full: list[tuple[int, Path, int]] = []  # number of the last record, path, bytes
        self._full_bytes = 0
        self._descriptor = -1
        self._first = self._next = 1
        self._end = SEGMENT_HEAD  # of the last whole frame in the open segment
        self._torn = False  # behind that end there may be something
        self._spoilt = False  # the next records go to a new segment
        self._begin()

    def write(self, bodies: Sequence[bytes]) -> None:
        """Write records behind the last one, all of them or none. Raises `OSError`; `FullError` at the limit."""
        data = pack(self._seed, self._next, bodies)
        if self._full_bytes + self._end + len(data) > self._limit:
            raise FullError(f"it is full, with the {self._limit} bytes that it may take")
        if self._torn:
            self._mend()
        full = self._next > self._first and self._end + len(data) > self._largest
        if full or self._spoilt or self._descriptor < 0:
            self._begin()
        try:
            _write(self._descriptor, data, self._end)
            if self._durable:
                os.fdatasync(self._descriptor)
        except OSError:
            # Which pages reached the disk is unknown after a failed sync, and a file that may not grow stays so.
            self._torn = self._spoilt = True
            with suppress(OSError):  # tried again before anything else is written
                self._mend()
            raise
        self._end += len(data)
        self._next += len(bodies)

    def let_go(self, up_to: int, wanted: int) -> list[Path]:
        """Segments that hold nothing above a number, for the caller to delete; they are no longer counted here.

        The open one is closed when it holds a record up to `wanted`, so that it can go. Raises `OSError` when a new one cannot be
        begun.
        """
        if self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0:
            self._spoilt = True  # somebody deleted it: what is written there would be gone with this process
        if self._descriptor >= 0 and self._first <= wanted and self._first < self._next:
            self._begin()
        going = [one for one in self._full if one[0] <= up_to]
        self._full = self._full[len(going) :]
        self._full_bytes -= sum(size for _, _, size in going)
        return [path for _, path, _ in going]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _mend(self) -> None:
        """Cut what a failed write left."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self._end)
        self._torn = False

    def _begin(self) -> None:
        """Open a new segment. Without a record in the open one it takes that one's place, as it has the same name."""
        path = segment_path(self._journal, self._next)
        if self._descriptor >= 0 and self._first == self._next:
            self.close()
            path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(descriptor, segment_head(self._journal.name, self._next), 0)
            if self._durable:
                os.fdatasync(descriptor)
                sync_folder(path.parent)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self._first < self._next:
            self._full.append((self._next - 1, segment_path(self._journal, self._first), self._end))
            self._full_bytes += self._end
        self._descriptor, self._first, self._end = descriptor, self._next, SEGMENT_HEAD
        self._torn = self._spoilt = False


def _write(descriptor: int, data: bytes, place: int) -> None:
    """All of it: a full disk shows as a short write first."""
    written = os.pwrite(descriptor, data, place)
    while written < len(data):
        more = os.pwrite(descriptor, data[written:], place + written)
        if more == 0:
            raise OSError(f"only {written} of {len(data)} bytes were taken")
        written += more
