"""One journal file on disk: its form, its lock, and reading it in a way that notices damage.

`journal/<id>.sqlite` holds the records; whoever holds the flock on `journal/<id>.lock` owns it. The kernel frees that
lock when the owner dies, however it dies, and then another process adopts the file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from feedback.errors import StorageError
from feedback.storage.records import Record, decode

FOLDER = "journal"
SCHEMA = "CREATE TABLE entry (seq INTEGER PRIMARY KEY, sum INTEGER NOT NULL, body BLOB NOT NULL)"
_BUSY_SECONDS = 10.0


class UnreadableJournalError(StorageError):
    """The file itself is damaged, not only a row in it."""


class Entry(NamedTuple):
    """One row of a journal; `record` is None when the row is damaged."""

    seq: int
    body: bytes
    record: Record | None


def checksum(seq: int, body: bytes) -> int:
    """CRC-32 over number and body: it notices damage; against forgery the file's permissions stand."""
    return zlib.crc32(body, seq & 0xFFFF_FFFF)


def lock(path: Path) -> int | None:
    """Take the flock of a journal; the descriptor that holds it, or None while another process has it."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if os.fstat(descriptor).st_nlink == 0:  # its last owner removed it between the two calls
        os.close(descriptor)
        return None
    return descriptor


def release(descriptor: int) -> None:
    """Free the lock; whoever looks next may adopt the journal."""
    os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a journal that the caller owns; its lock is to be freed after."""
    for suffix in (".sqlite", ".sqlite-wal", ".sqlite-shm", ".lock"):
        path.with_suffix(suffix).unlink(missing_ok=True)


class JournalReader:
    """Reads entries in order over a connection of its own; used from one thread at a time."""

    def __init__(self, path: Path, sync: Literal["os", "disk"] = "disk") -> None:
        self._path = path
        self._sync = sync
        self._connection: sqlite3.Connection | None = None

    def read(self, after: int, limit: int) -> list[Entry]:
        """Up to `limit` entries with a sequence number above `after`, with no gap between them.

        Raises `UnreadableJournalError` when the file is damaged, `StorageError` when it cannot be reached.
        """
        rows = self._rows("SELECT seq, sum, body FROM entry WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        entries = [_entry(*row) for row in rows]
        if any(later.seq != entry.seq + 1 for entry, later in pairwise(entries)):
            raise UnreadableJournalError(f"{self._path}: rows are gone from the journal above number {after}")
        return entries

    def last(self) -> int:
        """The highest sequence number that stands in the file, 0 in an empty one. Raises as `read` does."""
        return sum(seq or 0 for (seq,) in self._rows("SELECT max(seq) FROM entry"))

    def salvage(self) -> list[Entry]:
        """What can still be read of a damaged file: a scan from the front as far as it goes, and one from the back."""
        found: dict[int, Entry] = {}
        for order in ("ASC", "DESC"):
            try:
                for row in self._open().execute(f"SELECT seq, sum, body FROM entry ORDER BY seq {order}"):
                    entry = _entry(*row)
                    if entry.seq not in found or entry.record is not None:
                        found[entry.seq] = entry
            except sqlite3.Error:
                continue
        return [found[seq] for seq in sorted(found)]

    def settle(self) -> None:
        """Move what was committed from the write-ahead log into the file, off the writer's thread."""
        try:
            self._open().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: the journal cannot be written ({error})") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rows(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        try:
            return self._open().execute(query, values).fetchall()
        except sqlite3.Error as error:
            if "no such table" in str(error):  # its owner died while making it
                return []
            damaged = getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            kind = UnreadableJournalError if damaged else StorageError
            raise kind(f"{self._path}: the journal cannot be read ({error})") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path, self._sync, create=False)
        return self._connection


def connect(path: Path, sync: Literal["os", "disk"], create: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, free to move between threads (its users take turns)."""
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA synchronous = {'FULL' if sync == 'disk' else 'OFF'}")
    return connection


def _entry(seq: int, total: int, body: bytes) -> Entry:
    if not isinstance(body, bytes):  # damage to the row's header can change its type
        return Entry(seq, str(body).encode(), None)
    if checksum(seq, body) != total:
        return Entry(seq, body, None)
    try:
        return Entry(seq, body, decode(body))
    except msgspec.DecodeError:
        return Entry(seq, body, None)
