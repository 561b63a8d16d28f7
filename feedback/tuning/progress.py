"""When a fine-tuning that trains will be done, by the pace of its last steps."""

from __future__ import annotations

from sqlmodel import Session, col, select

from feedback.storage.tables import TrainingStep, Tuning

_STEPS, _SECONDS = 200, 600.0
"""Of which the pace is taken; a pause lies further back than that."""


def estimated_finish(session: Session, row: Tuning) -> float | None:
    """A Unix time; None for one that does not train, or whose pace is not known yet.

    Steps are written a few seconds' worth at a time, so the time of a step is when its lot came.
    """
    if row.state != "running":
        return None
    query = select(TrainingStep).where(TrainingStep.run == row.id, TrainingStep.step > 0)
    steps = session.exec(query.order_by(col(TrainingStep.step).desc()).limit(_STEPS)).all()
    if not steps:
        return None
    last = steps[0]
    recent = [one for one in steps if one.created >= last.created - _SECONDS]
    first = next(one for one in recent if one.created == recent[-1].created)  # the end of its lot
    if last.created <= first.created:
        return None
    pace = (last.created - first.created) / (last.step - first.step)
    return last.created + pace * (last.steps - last.step)
