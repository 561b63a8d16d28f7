"""Who leads in something that only one process may do: a row that its holder renews, and that anyone may take once it has run out."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import CursorResult, or_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete, select

from feedback.errors import ConflictError, StarloopError
from feedback.storage.database import Database
from feedback.storage.tables import Lease

LONGEST_SECONDS = 3600.0
"""No lease lasts longer. One that runs out later was taken before the clock was set back: nobody waits for what it says."""
_log = logging.getLogger(__name__)


class LeaseLostError(ConflictError):
    """Another leads now; this one must write nothing more."""

    goes_on = True


class HeldLease:
    """This process's claim to lead in `name`. Clocks of machines that share a database must agree to within the lease."""

    def __init__(self, database: Database, name: str, seconds: float, clock: Callable[[], datetime]) -> None:
        self._name = name
        self._database = database
        self._seconds = seconds
        self._clock = clock
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def acquire(self) -> bool:
        """Take the lease if it is free, renew it if it is ours; whether we hold it now."""
        with self._database.session() as session:
            held = self._renew(session, if_over=True) or self._make(session)
            session.commit()
        return held

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease in the background for as long as the block takes."""
        done = threading.Event()
        thread = threading.Thread(target=self._keep, args=(done,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def confirm(self, session: Session) -> None:
        """Renew within the caller's transaction, so that nothing is written by one that no longer leads."""
        if not self._renew(session, if_over=False):
            raise LeaseLostError(f"another {self._name} has taken over; this one stops where it stands")

    def release(self) -> None:
        """Let go, so that the next one need not wait for the lease to run out."""
        with self._database.session() as session:
            session.exec(delete(Lease).where(col(Lease.name) == self._name, col(Lease.holder) == self.holder))
            session.commit()

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(self._seconds / 3):
            try:
                with self._database.session() as session:
                    self.confirm(session)
                    session.commit()
            except LeaseLostError:
                return  # whoever writes next under this lease hears of it
            except StarloopError as error:
                _log.warning("the lease cannot be renewed just now: %s", error)

    def _renew(self, session: Session, if_over: bool) -> bool:
        now = self._clock().timestamp()
        ours = col(Lease.holder) == self.holder
        free = or_(col(Lease.expires) < now, col(Lease.expires) > now + LONGEST_SECONDS)
        result = session.exec(
            update(Lease)
            .where(col(Lease.name) == self._name, or_(ours, free) if if_over else ours)
            .values(holder=self.holder, expires=now + self._seconds)
        )
        assert isinstance(result, CursorResult)
        return result.rowcount == 1

    def _make(self, session: Session) -> bool:
        dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
        row = {
            "name": self._name,
            "holder": self.holder,
            "expires": self._clock().timestamp() + self._seconds,
        }
        session.exec(dialect.insert(Lease).values(row).on_conflict_do_nothing())
        return session.exec(select(Lease.holder).where(col(Lease.name) == self._name)).one() == self.holder


def holder_of(session: Session, name: str, now: datetime) -> Lease | None:
    """The lease as it is held at this moment, if anyone holds it."""
    lease = session.get(Lease, name)
    held = lease is not None and 0 <= lease.expires - now.timestamp() <= LONGEST_SECONDS
    return lease if held else None
