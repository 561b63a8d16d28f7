"""What happened to a fine-tuning, newest first: its messages and the steps of its training, as one list in pages."""

from __future__ import annotations

import re
from typing import NamedTuple

from sqlmodel import Session, col, select

from feedback.errors import BadFieldError
from feedback.storage.tables import TrainingStep, Tuning

_ID = re.compile(r"ftevent-([0-9a-f-]{36})-([ms])([0-9]{1,9})")


class Event(NamedTuple):
    """A message, or a step with its figures."""

    id: str
    time: float
    level: str
    text: str
    step: TrainingStep | None = None


def list_events(session: Session, row: Tuning, limit: int, after: str | None) -> tuple[list[Event], bool]:
    """A page of events, and whether there are more. Raises `BadFieldError` for an `after` that is none of them."""
    messages = [
        ((one["time"], 1, place), Event(f"ftevent-{row.id}-m{place}", one["time"], one["level"], one["text"]))
        for place, one in enumerate(row.messages)
    ]
    query = select(TrainingStep).where(TrainingStep.run == row.id, TrainingStep.step > 0)
    below = None
    if after is not None:
        below = _place(session, row, after)
        query = query.where(col(TrainingStep.created) <= below[0])
        if below[1] == 0:
            query = query.where(col(TrainingStep.step) < below[2])
    steps = session.exec(query.order_by(col(TrainingStep.step).desc()).limit(limit + 1)).all()
    found = [*messages, *(((step.created, 0, step.step), _told(row, step)) for step in steps)]
    left = sorted(
        (one for one in found if below is None or one[0] < below), key=lambda one: one[0], reverse=True
    )
    return [event for _, event in left[:limit]], len(left) > limit


def _place(session: Session, row: Tuning, after: str) -> tuple[float, int, int]:
    found = _ID.fullmatch(after)
    if found is not None and found[1] == row.id:
        number = int(found[3])
        if found[2] == "m" and number < len(row.messages):
            return row.messages[number]["time"], 1, number
        if found[2] == "s" and (step := session.get(TrainingStep, (row.id, number))) is not None:
            return step.created, 0, number
    raise BadFieldError("after", f"{after[:80]!r} is not an event of this job")


def _told(row: Tuning, step: TrainingStep) -> Event:
    losses = [("training loss", step.loss), ("validation loss", step.validation_loss)]
    figures = ", ".join(f"{name}={loss:.4f}" for name, loss in losses if loss is not None)
    text = " ".join([f"Step {step.step}/{step.steps}: {figures}", *step.noticed])
    level = "warn" if step.noticed else "info"
    return Event(f"ftevent-{row.id}-s{step.step}", step.created, level, text, step)
