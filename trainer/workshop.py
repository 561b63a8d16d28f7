"""What a cycle's steps work with, put together once by a command and handed down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from feedback.errors import NotFoundError
from feedback.settings import Model, Settings
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, ModelVersion, Tuning
from trainer.evaluation import Evaluation
from trainer.gateway import Gateway
from trainer.lease import LoopLease
from trainer.record import CycleRecord
from trainer.teacher import Teacher
from trainer.training import Progress


class MakeVersion(Protocol):
    """Trains a cycle's dataset version into a published model version; the same one however often it is called."""

    def __call__(self, cycle: Cycle, on_progress: Callable[[Progress], None]) -> ModelVersion: ...


class MakeTuned(Protocol):
    """Trains what a client asked for on its file into a published model version, in the same way."""

    def __call__(self, row: Tuning, on_progress: Callable[[Progress], None]) -> ModelVersion: ...


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Workshop:
    """The doors through which the loop reaches everything outside itself."""

    database: Database
    settings: Settings
    gateway: Gateway
    make_version: MakeVersion
    clock: Callable[[], datetime] = utc_now
    teacher: Teacher | None = None
    """Where `[teacher] url` names one."""
    judge: Teacher | None = None
    """Where `[judge] url` names one."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """What only the environment tells: the webhook's secret, the mail server's password, the contenders' keys."""
    make_tuned: MakeTuned | None = None
    """None where only cycles are run."""

    def model(self, name: str) -> Model:
        """The model's section of the configuration. Raises `NotFoundError` where there is none, or none any more."""
        model = self.settings.model_named(name)
        if model is None:
            known = ", ".join(one.name for one in self.settings.model)
            raise NotFoundError(f"there is no [[model]] {name!r} in the configuration; it has: {known}")
        return model

    def record(self, lease: LoopLease, stopping: threading.Event, cycle_id: str) -> CycleRecord:
        """A cycle's row, to be written under the lease."""
        return CycleRecord(self.database, lease, self.clock, stopping, cycle_id)

    def evaluation(self) -> Evaluation:
        """Asks versions through the server."""
        wanted = self.settings.evaluation
        return Evaluation(self.database, self.gateway, self.clock, wanted.concurrency, wanted.max_tokens)
