"""Whose turn it is: of cycles and fine-tunings that wait, the one to run next, and what is told of those that may not yet.

Outside the training window only what trains no more goes on: a cycle whose version is made, and what is to be ended.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session, and_, col, or_, select

from feedback.errors import StarloopError
from feedback.settings import Training
from feedback.storage.tables import Cycle, Tuning
from feedback.tuning.requests import tell
from feedback.window import Window, waits_for


class WindowClosedError(StarloopError):
    """The training is left where it stands, and goes on when the window opens."""


class Hours(NamedTuple):
    """When a training may run."""

    window: Window | None
    engine_asleep: bool

    @classmethod
    def of(cls, settings: Training) -> Hours:
        return cls(Window.parse(settings.window), settings.engine_asleep)

    def check_begin(self, now: datetime) -> None:
        """Raise `WindowClosedError` where no training may begin now."""
        if self.window is not None and not self.window.open_at(now):
            raise WindowClosedError(waits_for(self.window, now))

    def check_going_on(self, now: datetime) -> None:
        """Raise it where one that has begun may not go on: engines sleep no longer than their window."""
        if self.engine_asleep:
            self.check_begin(now)


def next_turn(session: Session, window: Window | None, now: datetime) -> Cycle | Tuning | None:
    """What was interrupted, else whatever was asked for first, cycle or fine-tuning; in the window, or where it trains not."""
    cycles = select(Cycle).where(col(Cycle.state).in_(("running", "queued")))
    tunings = select(Tuning).where(col(Tuning.state).in_(("running", "queued")))
    if window is not None and not window.open_at(now):
        on_its_way_out = or_(col(Cycle.version).is_not(None), col(Cycle.cancel_requested))
        cycles = cycles.where(and_(Cycle.state == "running", on_its_way_out))
        tunings = tunings.where(and_(Tuning.state == "running", col(Tuning.wanted).is_not(None)))
    found = [
        session.exec(cycles.order_by(col(Cycle.state).desc(), col(Cycle.id)).limit(1)).first(),
        session.exec(tunings.order_by(col(Tuning.state).desc(), col(Tuning.id)).limit(1)).first(),
    ]
    return min(
        (one for one in found if one is not None),
        key=lambda one: (one.state != "running", one.id),
        default=None,
    )


def tell_waiting(session: Session, window: Window, now: datetime) -> bool:
    """Write into what waits for the window that it does; whether there was anything to write. Commits nothing."""
    told, changed = waits_for(window, now), False
    for cycle in session.exec(select(Cycle).where(col(Cycle.state).in_(("running", "queued")))):
        said = cycle.reason or ""  # perhaps with what its last window came to
        if cycle.version is None and not said.startswith(told):
            cycle.reason, changed = told, True
            session.add(cycle)
    for row in session.exec(select(Tuning).where(col(Tuning.state).in_(("running", "queued")))):
        sentence = told[0].upper() + told[1:]
        if row.messages[-1]["text"] != sentence:
            tell(row, sentence, now, kind="waits")
            changed = True
            session.add(row)
    return changed
