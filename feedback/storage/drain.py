"""The drainer: brings what the journals hold to the database, as soon as it is there, exactly once.

It drains its own worker's journal a few times a second and adopts journals whose owner is gone. Storing is idempotent
and forgetting comes after storing, so dying at any moment costs nothing but doing a batch again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from pathlib import Path

from feedback.errors import StarloopError, StorageError, UnavailableError
from feedback.storage.adoption import adopt
from feedback.storage.carrier import Carrier, Here
from feedback.storage.database import Database
from feedback.storage.journal import Journal
from feedback.threads import name_this_thread

INTERVAL = 0.15
_ADOPT_EVERY = 2.0
_ADOPT_BATCHES = 4  # of somebody else's journal before the own one is looked at again
_LONGEST_WAIT = 5.0

log = logging.getLogger(__name__)


class Drainer:
    """Drains one worker's journal (or none, for a process that only adopts) in a thread of its own."""

    def __init__(
        self, journal: Journal | None, database: Database, directory: Path, carrier: Carrier | None = None
    ) -> None:
        self._journal = journal
        self._carrier = carrier or (
            None if journal is None else Here(journal, journal.path, database, directory)
        )
        self._database = database
        self._directory = directory
        self._position = 0
        self._level = time.monotonic()  # when the journal was last seen to be drained
        self._adopting: Generator[int, None, None] | None = None
        self._adopt_at = 0.0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to drain in the background."""
        self._thread = threading.Thread(target=self._run, name="drainer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Drain once more if the database answers, and end the thread. What is left is for the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._carrier is not None:
            self._carrier.close()

    def wake(self) -> None:
        """Drain now rather than at the next tick."""
        self._wake.set()

    @property
    def lag_seconds(self) -> float:
        """For how long there have been records here that the database does not hold; an upper bound."""
        if self._journal is None or self._journal.backlog() == 0:
            return 0.0
        return time.monotonic() - self._level

    def drain_once(self) -> int:
        """Drain the own journal and some of what nobody owns; how many rows were new.

        For the thread, or for a caller that did not `start` it. Raises `UnavailableError` or `StorageError` when the
        database cannot be written; nothing is lost by that.
        """
        return self._drain_own() + self._adopt_some()

    def _run(self) -> None:
        name_this_thread("drainer")
        wait = INTERVAL
        while True:
            last_round = self._stopping.is_set()
            try:
                self.drain_once()
                wait = INTERVAL if self._adopting is None else 0.0
            except StarloopError as error:
                wait = min(max(wait, INTERVAL) * 2, _LONGEST_WAIT)
                log.warning("draining waits %.1f s: %s", wait, error)
            except Exception:  # the thread's boundary: whatever went wrong, the next round tries again
                wait = _LONGEST_WAIT
                log.exception("draining failed; trying again in %.1f s", wait)
            if last_round:
                if self._adopting is not None:
                    self._adopting.close()
                return
            self._wake.wait(wait)
            self._wake.clear()

    def _drain_own(self) -> int:
        journal, carrier = self._journal, self._carrier
        if journal is None or carrier is None:
            return 0
        stored = 0
        seen = time.monotonic()
        goal = journal.last
        try:
            while self._position < goal:
                carried = carrier.carry(self._position, goal)
                stored += carried.stored
                self._position = carried.position
                if carried.problem:
                    raise (UnavailableError if carried.away else StorageError)(carried.problem)
        finally:
            journal.forget(self._position)  # also with nothing new: an erasure may want files gone
        self._level = seen
        return stored

    def _adopt_some(self) -> int:
        if self._adopting is None:
            if time.monotonic() < self._adopt_at:
                return 0
            self._adopt_at = time.monotonic() + _ADOPT_EVERY
            self._adopting = adopt(self._database, self._directory)
        stored = 0
        for _ in range(_ADOPT_BATCHES):
            try:
                stored += next(self._adopting)
            except StopIteration:
                self._adopting = None
                return stored
            except BaseException:
                self._adopting = None  # a generator that raised is over; the next round begins a new one
                raise
        return stored
