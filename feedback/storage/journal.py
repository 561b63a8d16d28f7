"""The journal: where a record stands before anyone is told that it was captured.

Each gateway worker writes a file of its own, so that nothing waits for a lock or for the database. A drainer reads the
file from another thread, brings the records to the database and asks for them to be forgotten.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal

from feedback.errors import StorageError
from feedback.ids import new_id
from feedback.storage import journal_file
from feedback.storage.journal_file import Entry, JournalReader, checksum
from feedback.storage.records import Record, encode

# Rows deleted at a time: few enough not to be felt by those who wait for the next write.
_FORGET_STEP = 128
# Time without a write after which rows are deleted although nothing is written.
_IDLE_SECONDS = 0.3
# Rows of one statement. Each call into SQLite lets go of the interpreter's lock, and in a busy gateway getting it back
# costs several times what SQLite does: so a transaction is one statement where it can be.
_INSERTED = 64
# Turns of the event loop that a transaction waits for company, as long as each brings some.
_GATHER_TURNS = 4
_PAGE = 4096
_Waiting = tuple[bytes, "asyncio.Future[None]"]


class Journal:
    """One worker's journal. `append` and `write` are for one event loop's thread, the rest for any."""

    def __init__(self, path: Path, descriptor: int, sync: Literal["os", "disk"], limit: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._connection = journal_file.connect(path, sync, create=True)
        self._connection.execute(f"PRAGMA max_page_count = {max(limit // _PAGE, 16)}")
        self._connection.execute("PRAGMA journal_mode = WAL")
        # The drainer moves the log into the file; this only bounds the log where there is no drainer.
        self._connection.execute("PRAGMA wal_autocheckpoint = 8192")
        self._connection.execute(journal_file.SCHEMA)
        self._reader = JournalReader(path, sync)
        self._lock = threading.Lock()
        self._last = 0  # sequence number of the last row that stands
        self._forget = 0  # rows up to here are in the database
        self._forgotten = 0  # rows up to here are deleted
        self._turn: list[_Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor = ThreadPoolExecutor(1, "journal") if sync == "disk" else None
        self._writing = False
        self._written = 0.0  # by the loop's clock
        self._idle: asyncio.TimerHandle | None = None

    @classmethod
    def open(
        cls, directory: Path, sync: Literal["os", "disk"], now: datetime, limit: int = 8 << 30
    ) -> Journal:
        """Make a new journal under the data directory, owned by this process.

        `sync="os"` survives the death of any process, `"disk"` also a power cut. `limit` bounds the file's bytes: at
        it, as when the disk is full, `append` and `write` raise `StorageError`.
        """
        folder = directory / journal_file.FOLDER
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{new_id(now)}.sqlite"
            descriptor = journal_file.lock(path)
            if descriptor is None:
                raise StorageError(f"{path}: the new journal's lock is taken; start again")
            return cls(path, descriptor, sync, limit)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"{folder}: no journal can be written there ({error}); check space and permissions"
            ) from error

    # -- writing

    def append(self, records: Sequence[Record]) -> None:
        """Write records in one transaction; they stand when this returns.

        Raises `StorageError`, with none of them written, when the disk is full or the file cannot be written.
        """
        self._commit([encode(record) for record in records])

    async def write(self, record: Record) -> None:
        """Write one record, in one transaction with all that come in the same turn of the event loop.

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
        """Let those join that come a turn or two later: a transaction costs more than a row. Alone, nobody waits."""
        waiting = len(self._turn)
        if waiting > seen and turns > 1:
            asyncio.get_running_loop().call_soon(self._gather, waiting, turns - 1)
        else:
            self._flush()

    def _flush(self) -> None:
        """Write the turn: here (microseconds), or in a thread where each transaction waits for the disk."""
        turn, self._turn = self._turn, []
        if not turn:
            return
        if self._loop is not None:
            self._written = self._loop.time()
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
        error = done.exception()
        _resolve(turn, error)
        if self._turn:
            self._flush()  # what came meanwhile is the next group
        elif error is None:
            self._forget_later(0 if not turn else _IDLE_SECONDS)

    def _commit(self, bodies: list[bytes]) -> None:
        with self._lock:
            try:
                if self._forget - self._forgotten >= _FORGET_STEP:
                    self._delete()
                try:
                    self._insert(bodies)
                except sqlite3.OperationalError:
                    if self._forgotten == self._forget:
                        raise
                    self._delete()  # full, perhaps; there is room that nobody needs
                    self._insert(bodies)
            except sqlite3.Error as error:
                raise StorageError(
                    f"{self.path}: the journal cannot be written ({error}); free some space"
                ) from error
            self._last += len(bodies)

    def _insert(self, bodies: list[bytes]) -> None:
        """All rows in one transaction: nothing of it stands when it fails."""
        if not bodies:
            return
        rows = [(seq, checksum(seq, body), body) for seq, body in enumerate(bodies, self._last + 1)]
        execute = self._connection.execute
        if len(rows) <= _INSERTED:
            execute(_insertion(len(rows)), [value for row in rows for value in row])
            return
        execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(_insertion(1), rows)
            execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise

    # -- reading and forgetting, for the drainer

    def read(self, after: int, limit: int) -> list[Entry]:
        """Entries above a sequence number, over a connection of their own; for one reading thread."""
        return self._reader.read(after, limit)

    def settle(self) -> None:
        """Move the log into the file; for the reading thread."""
        self._reader.settle()

    def forget(self, up_to: int) -> None:
        """Rows up to here are safe elsewhere. They are deleted beside later writes, or soon when there are none."""
        self._forget = max(self._forget, up_to)
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: `close` deletes them
                self._loop.call_soon_threadsafe(self._forget_later)

    def backlog(self) -> int:
        """Records that stand here and not yet in the database."""
        return max(0, self._last - self._forget)

    @property
    def last(self) -> int:
        """Sequence number of the last record that stands."""
        return self._last

    def _forget_later(self, seconds: float = _IDLE_SECONDS) -> None:
        if self._idle is None and self._loop is not None:
            self._idle = self._loop.call_later(seconds, self._forget_when_idle)

    def _forget_when_idle(self) -> None:
        """Delete a step of what may be forgotten, and go on while nothing is written."""
        self._idle = None
        loop = self._loop
        if self._descriptor < 0 or loop is None or self._forgotten >= self._forget:
            return
        if self._turn or self._writing or loop.time() - self._written < _IDLE_SECONDS:
            self._forget_later()
        elif self._executor is not None:
            self._writing = True
            done = loop.run_in_executor(self._executor, self._forget_step)
            done.add_done_callback(lambda done: self._flushed([], done))
        else:
            self._forget_step()
            self._forget_later(0)

    def _forget_step(self) -> None:
        with (
            self._lock,
            suppress(sqlite3.Error),
        ):  # nobody waits for this; a full disk shows at the next write
            self._delete()

    def _delete(self) -> None:
        """Delete one step of the rows that may be forgotten."""
        mark = min(self._forget, self._forgotten + _FORGET_STEP)
        self._connection.execute("DELETE FROM entry WHERE seq <= ?", (mark,))
        self._forgotten = mark

    def close(self) -> None:
        """Write what waits, free the file, and delete it when nothing is left in it.

        With records left, the next process that looks (this one's drainer, a sibling's, a later start's) adopts it.
        """
        if self._descriptor < 0:
            return
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
        self._flush()
        self._reader.close()
        self._connection.close()
        if self.backlog() == 0:
            journal_file.remove(self.path)
        journal_file.release(self._descriptor)
        self._descriptor = -1


@cache
def _insertion(rows: int) -> str:
    return "INSERT INTO entry VALUES " + ", ".join(["(?, ?, ?)"] * rows)


def _resolve(turn: list[_Waiting], error: BaseException | None) -> None:
    for _, future in turn:
        if future.done():  # its request was cancelled; the record stands all the same
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
