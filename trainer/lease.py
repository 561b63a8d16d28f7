"""One loop leads: it holds the lease `loop`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session

from feedback.storage.database import Database
from feedback.storage.lease import HeldLease, holder_of
from feedback.storage.lease import LeaseLostError as LeaseLostError

_NAME = "loop"


class LoopLease(HeldLease):
    """This process's claim to lead the loop."""

    def __init__(self, database: Database, seconds: float, clock: Callable[[], datetime]) -> None:
        super().__init__(database, _NAME, seconds, clock)


def leader(session: Session, now: datetime) -> str | None:
    """Who leads at this moment, if anyone does."""
    lease = holder_of(session, _NAME, now)
    return None if lease is None else lease.holder
