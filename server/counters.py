"""What each key has used of its limits: one table that all workers over a data directory share.

A file mapped into memory, read and changed under its flock: exact, as only one worker looks and counts at a time, and cheap,
as nothing waits for a disk. A minute is sixty steps of a second, each with its own count, so that a limit holds over the last
sixty seconds and not only from one full minute to the next. What is under way is counted by worker. A worker owns its
column through a lock that the kernel frees when it dies; the next one to miss a place then empties that column.

Called from the event loop alone: threads of one process would not exclude each other.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from feedback.access.limits import Limits
from feedback.errors import LimitReachedError, StorageError

FOLDER = "limits"
ROWS, WORKERS, STEPS = 1024, 64, 60
"""Keys with limits that are in use within one minute; workers; seconds."""
# A row in words of 64 bits: the key's id (two), the second it was last used, requests and tokens of each of the last
# sixty seconds, and what each worker has under way.
_SECOND, _REQUESTS, _TOKENS, _FLYING, _WORDS = 2, 3, 63, 123, 187
_SIZE = ROWS * _WORDS * 8
_SOON = 1


class Counters:
    """One worker's hold on the table."""

    def __init__(self, folder: Path, table: int, worker: int, lock: int) -> None:
        self._folder = folder
        self._table = table
        self._worker = worker
        self._lock = lock
        self._words = memoryview(mmap.mmap(table, _SIZE)).cast("Q")  # unmapped with its last view
        self._zeros = memoryview(bytes(_WORDS * 8)).cast("Q")
        self._column = memoryview(bytes(ROWS * 8)).cast("Q")
        self._known: dict[str, tuple[int, int, int]] = {}

    @classmethod
    def open(cls, directory: Path) -> Counters:
        """Join the table in a data directory as one more worker. Raises `StorageError`."""
        folder = directory / FOLDER
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            table = os.open(folder / "table", os.O_RDWR | os.O_CREAT, 0o600)
            with _held(table):
                if os.fstat(table).st_size < _SIZE:
                    os.pwrite(
                        table, bytes(_SIZE), 0
                    )  # no hole: one that cannot be filled later kills who writes
                worker, lock = _take_column(folder)
                counters = cls(folder, table, worker, lock)
                counters._empty(worker)
                return counters
        except OSError as error:
            raise StorageError(f"{folder}: cannot be used ({error}); check space and permissions") from error

    def close(self) -> None:
        """Leave the table; what was still under way here no longer counts."""
        with _held(self._table):
            self._empty(self._worker)
        os.close(self._lock)
        os.close(self._table)

    def count(self, key_id: str, limits: Limits, now: float) -> None:
        """Count a request that only the limit on requests is about. Raises `LimitReachedError` instead at a limit."""
        if limits.rpm is not None:
            with _held(self._table):
                row, second = self._row(key_id, now)
                self._check_requests(row, second, limits.rpm, now)
                self._words[row + _REQUESTS + second % STEPS] += 1

    def enter(self, key_id: str, limits: Limits, now: float) -> None:
        """Let a completion in, to be followed by `leave`. Raises `LimitReachedError`, and then it is not counted."""
        with _held(self._table):
            row, second = self._row(key_id, now)
            if limits.concurrent is not None:
                self._check_flying(row, limits.concurrent)
            if limits.rpm is not None:
                self._check_requests(row, second, limits.rpm, now)
            if limits.tpm is not None:
                self._check_tokens(row, second, limits.tpm, now)
            self._words[row + _REQUESTS + second % STEPS] += 1
            self._words[row + _FLYING + self._worker] += 1

    def leave(self, key_id: str, tokens: int, now: float) -> None:
        """A completion that was let in is over, and used so many tokens."""
        with _held(self._table):
            row, second = self._row(key_id, now)
            self._words[row + _TOKENS + second % STEPS] += tokens
            cell = row + _FLYING + self._worker
            self._words[cell] = max(0, self._words[cell] - 1)

    # -- the limits

    def _check_flying(self, row: int, limit: int) -> None:
        flying = self._words[row + _FLYING : row + _FLYING + WORKERS]
        if sum(flying) >= limit:
            for worker in range(WORKERS):
                if flying[worker] and worker != self._worker:
                    self._bury(worker)
            if sum(flying) >= limit:
                raise LimitReachedError(
                    f"this key may have {limit} completions under way at a time, and has; come again in {_SOON} s",
                    _SOON,
                )

    def _check_requests(self, row: int, second: int, limit: int, now: float) -> None:
        requests = self._words[row + _REQUESTS : row + _TOKENS]
        if sum(requests) >= limit:
            wait = _wait(requests, second, now, limit)
            raise LimitReachedError(
                f"this key may make {limit} requests a minute, and has; come again in {wait} s", wait
            )

    def _check_tokens(self, row: int, second: int, limit: int, now: float) -> None:
        tokens = self._words[row + _TOKENS : row + _FLYING]
        used = sum(tokens)
        if used >= limit:
            wait = _wait(tokens, second, now, limit)
            raise LimitReachedError(
                f"this key may use {limit} tokens a minute, and has used {used}; come again in {wait} s", wait
            )

    # -- the table

    def _row(self, key_id: str, now: float) -> tuple[int, int]:
        """Where the key's row begins, brought up to this second; and the second that counts are to be put into."""
        words = self._words
        known = self._known.get(key_id)
        if known is None or words[known[0]] != known[1] or words[known[0] + 1] != known[2]:
            known = self._known[key_id] = self._find(UUID(key_id))
        row, second = known[0], int(now)
        last = words[row + _SECOND]
        if last == second:
            return row, second
        if -STEPS < second - last < 0:
            return row, last  # another worker was here a moment later; or the clock was set back a little
        if last < second < last + STEPS:
            for step in range(last + 1, second + 1):
                words[row + _REQUESTS + step % STEPS] = words[row + _TOKENS + step % STEPS] = 0
        else:
            words[row + _REQUESTS : row + _FLYING] = self._zeros[: 2 * STEPS]
        words[row + _SECOND] = second
        return row, second

    def _find(self, key: UUID) -> tuple[int, int, int]:
        """The key's row; one that is free, or whose key was not used for the longest time, where it has none yet."""
        words = self._words
        high, low = key.int >> 64, key.int & (2**64 - 1)
        for index, found in enumerate(words[1::_WORDS].tolist()):
            if found == low and words[index * _WORDS] == high:
                return index * _WORDS, high, low
        used = words[_SECOND::_WORDS].tolist()
        for index in sorted(range(ROWS), key=used.__getitem__):
            row = index * _WORDS
            if not any(words[row + _FLYING : row + _FLYING + WORKERS]):
                words[row : row + _WORDS] = self._zeros
                words[row], words[row + 1] = high, low
                return row, high, low
        raise LimitReachedError(
            f"{ROWS} keys with limits have requests under way; wait for one to end", _SOON
        )

    def _bury(self, worker: int) -> None:
        """Forget what a worker had under way, if it is dead."""
        lock = _own(self._folder, worker)
        if lock is not None:
            self._empty(worker)
            os.close(lock)

    def _empty(self, worker: int) -> None:
        self._words[_FLYING + worker :: _WORDS] = self._column


def _wait(counts: memoryview[int], second: int, now: float, limit: int) -> int:
    """Whole seconds until so much is more than a minute old that the rest is below the limit."""
    rest = sum(counts)
    step = second - STEPS
    while rest >= limit:
        step += 1
        rest -= counts[step % STEPS]
    return max(1, math.ceil(step + STEPS - now))


def _take_column(folder: Path) -> tuple[int, int]:
    for worker in range(WORKERS):
        lock = _own(folder, worker)
        if lock is not None:
            return worker, lock
    raise StorageError(f"{folder}: {WORKERS} workers use this data directory already; start fewer")


def _own(folder: Path, worker: int) -> int | None:
    """The lock of a worker's column, or None while that worker lives."""
    lock = os.open(folder / f"{worker}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


@contextmanager
def _held(table: int) -> Iterator[None]:
    fcntl.flock(table, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(table, fcntl.LOCK_UN)
