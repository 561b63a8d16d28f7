"""The journal: where a record stands before anyone is told that it was captured.

Each gateway worker appends to files of its own, so that nothing waits for a lock or for the database. A drainer reads them
from another thread or process, brings the records to the database and lets the files go whole.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from feedback.errors import StorageError
from feedback.ids import new_id
from feedback.storage import journal_file
from feedback.storage.journal_reader import Entry, JournalReader
from feedback.storage.marks import Marks
from feedback.storage.records import Record, encode
from feedback.storage.segments import Segments

# Turns of the event loop that a write waits for company, as long as each brings some: a system call costs more than a
# record, and lets go of the interpreter, which in a busy gateway takes long to come back.
_GATHER_TURNS = 4
_Waiting = tuple[bytes, "asyncio.Future[None]"]


class Journal:
    """One worker's journal. `append` and `write` are for one event loop's thread, the rest for any."""

    def __init__(self, path: Path, descriptor: int, sync: Literal["os", "disk"], limit: int) -> None:
        self.path = path
        """Its name: the path of its files without what is their own."""
        self._descriptor = descriptor
        self._marks = Marks(path)
        self._segments = Segments(path, limit, durable=sync == "disk")
        self._reader = JournalReader(path)
        self._lock = threading.Lock()
        self._last = 0  # number of the last record that stands
        self._drained = 0  # records up to here are in the database
        self._turn: list[_Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor = ThreadPoolExecutor(1, "journal") if sync == "disk" else None
        self._writing = False

    @classmethod
    def open(
        cls, directory: Path, sync: Literal["os", "disk"], now: datetime, limit: int = 8 << 30
    ) -> Journal:
        """Make a new journal under the data directory, owned by this process.

        `sync="os"` survives the death of any process, `"disk"` also a power cut. `limit` bounds the files' bytes: at
        it, as when the disk is full, `append` and `write` raise `StorageError`.
        """
        folder = directory / journal_file.FOLDER
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / new_id(now)
            descriptor = journal_file.lock(path)
            if descriptor is None:
                raise StorageError(f"{path}: the new journal's lock is taken; start again")
            try:
                return cls(path, descriptor, sync, limit)
            except OSError:
                journal_file.remove(path)
                journal_file.release(descriptor)
                raise
        except OSError as error:
            raise StorageError(
                f"{folder}: no journal can be written there ({error}); check space and permissions"
            ) from error

    # -- writing

    def append(self, records: Sequence[Record]) -> None:
        """Write records together; they stand when this returns.

        Raises `StorageError`, with none of them written, when the disk is full or the file cannot be written.
        """
        self._commit([encode(record) for record in records])

    async def write(self, record: Record) -> None:
        """Write one record, together with all that come in the same turn of the event loop.

        Resolves when it stands. Cancelling the wait does not take the record back.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        future: asyncio.Future[None] = loop.create_future()
        self._turn.append((encode(record), future))
        if len(self._turn) == 1 and not self._writing:
            loop.call_soon(self._gather, 1, _GATHER_TURNS)
        await future

    def _gather(self, seen: int, turns: int) -> None:
        """Let those join that come a turn or two later. Alone, nobody waits."""
        waiting = len(self._turn)
        if waiting > seen and turns > 1:
            asyncio.get_running_loop().call_soon(self._gather, waiting, turns - 1)
        else:
            self._flush()

    def _flush(self) -> None:
        """Write the turn: here (microseconds), or in a thread where each write waits for the disk."""
        turn, self._turn = self._turn, []
        if not turn:
            return
        bodies = [body for body, _ in turn]
        if self._executor is None:
            try:
                self._commit(bodies)
            except Exception as error:  # whatever it is, those who wait must hear of it
                _resolve(turn, error)
            else:
                _resolve(turn, None)
            return
        assert self._loop is not None
        self._writing = True
        written = self._loop.run_in_executor(self._executor, self._commit, bodies)
        written.add_done_callback(lambda done: self._flushed(turn, done))

    def _flushed(self, turn: list[_Waiting], done: asyncio.Future[None]) -> None:
        self._writing = False
        _resolve(turn, done.exception())
        self._flush()  # what came meanwhile is the next group

    def _commit(self, bodies: list[bytes]) -> None:
        if not bodies:
            return
        with self._lock:
            if self._descriptor < 0:
                raise StorageError(f"{self.path}: the journal is closed; the record was not written")
            try:
                self._segments.write(bodies)
            except OSError as error:
                raise StorageError(
                    f"{self.path}: the journal cannot be written ({error}); free some space"
                ) from error
            last = self._last + len(bodies)
            # After the records and before the answer: from now on their loss would be told. The mark is never behind
            # what a reader is told to read up to.
            self._marks.standing = last
            self._last = last

    # -- reading and letting go, for the drainer

    def read(self, after: int, limit: int, goal: int | None = None) -> list[Entry]:
        """Entries above a number; for one reading thread."""
        return self._reader.read(after, limit, self._last if goal is None else goal)

    def forget(self, up_to: int) -> None:
        """Records up to here are safe elsewhere: segments that hold no others are deleted."""
        with self._lock:
            if self._descriptor < 0:
                return
            if up_to > self._drained:
                self._drained = up_to
                self._marks.drained = up_to
            try:
                gone = self._segments.let_go(self._drained, self._marks.wanted)
            except OSError:
                return  # no room for a new segment; the next write says so, and the next drain tries again
        for path in gone:  # without the lock: writing need not wait for the file system
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def backlog(self) -> int:
        """Records that stand here and not yet in the database."""
        return max(0, self._last - self._drained)

    @property
    def last(self) -> int:
        """Number of the last record that stands."""
        return self._last

    def close(self) -> None:
        """Write what waits, free the files, and delete them when nothing is left in them.

        With records left, the next process that looks (this one's drainer, a sibling's, a later start's) adopts them.
        """
        if self._descriptor < 0:
            return
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
        self._flush()
        self._reader.close()
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            self._segments.close()
            self._marks.close()
            if self.backlog() == 0:
                journal_file.remove(self.path)
        os.close(descriptor)


def _resolve(turn: list[_Waiting], error: BaseException | None) -> None:
    for _, future in turn:
        if future.done():  # its request was cancelled; the record stands all the same
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
