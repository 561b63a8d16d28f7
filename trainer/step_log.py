"""Writes a training's steps into the record while it runs, a few seconds' worth at a time.

The parent writes, never the child: the child knows no database. A database that is away holds nothing up; what could
not be written waits for the next time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from feedback.errors import StorageError, UnavailableError
from feedback.registry.training_steps import write_steps
from feedback.storage.database import Database
from trainer.training import Progress

_log = logging.getLogger(__name__)
_SECONDS = 2.0
_MOST = 100_000
"""Steps that wait at most, some 30 MB: a database may be away for long."""


class StepLog:
    """Takes each progress in; call `flush` at the end."""

    def __init__(
        self,
        database: Database,
        run: str,
        wall: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._run = run
        self._wall = wall
        self._clock = clock
        self._waiting: list[dict[str, Any]] = []
        self._seen: Progress | None = None
        self._next = clock() + _SECONDS

    def __call__(self, progress: Progress) -> None:
        """Note a step; what is not new, as at each heartbeat, changes nothing."""
        if progress is not self._seen and progress.steps:
            self._waiting.append(msgspec.structs.asdict(progress))
            del self._waiting[:-_MOST]
        self._seen = progress
        if self._waiting and self._clock() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._next = self._clock() + _SECONDS
        try:
            with self._database.session() as session:
                write_steps(session, self._run, self._waiting, self._wall().timestamp())
                session.commit()
        except (UnavailableError, StorageError) as error:
            _log.warning(
                "%d steps of training %s wait to be recorded: %s", len(self._waiting), self._run, error
            )
        else:
            self._waiting.clear()
