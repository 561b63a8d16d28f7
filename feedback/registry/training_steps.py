"""How trainings went, step by step: written while they run, read by commands, the API and pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, cast

from msgspec import Struct
from sqlalchemy import Table, delete, insert
from sqlmodel import Session, col, select

from feedback.errors import BadFieldError, NotFoundError
from feedback.registry.versions import get_version
from feedback.storage.paging import Page
from feedback.storage.tables import TrainingStep

_table = cast(Table, TrainingStep.__table__)  # type: ignore[attr-defined]


class Epoch(Struct, frozen=True, kw_only=True):
    """One pass over the data: the mean of its steps' losses, and what the last look at the validation examples showed.

    Epoch 0 is the base as it came.
    """

    epoch: int
    steps: int
    train: float | None
    validation: float | None
    validation_new: float | None
    validation_old: float | None


def write_steps(session: Session, run: str, rows: Sequence[Mapping[str, Any]], now: float) -> None:
    """Write steps in order. One that is written again, after an interruption, replaces what stood there. Does not commit."""
    if not rows:
        return
    connection = session.connection()
    first = min(row["step"] for row in rows)
    connection.execute(delete(_table).where(_table.c.run == run, _table.c.step >= first))
    last = {row["step"]: dict(row) for row in rows}  # a training that went back comes to a step twice
    fixed = dict.fromkeys(_table.columns.keys()) | {"run": run, "created": now}  # all rows name all columns
    connection.execute(insert(_table), [fixed | row for row in last.values()])


def read_steps(session: Session, run: str, limit: int, cursor: str | None) -> Page[TrainingStep]:
    """Steps of a training, in their order; the cursor is the last one's number. Raises `BadFieldError` for what is none."""
    query = select(TrainingStep).where(TrainingStep.run == run).order_by(col(TrainingStep.step))
    if cursor is not None:
        if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
            raise BadFieldError("cursor", f"{cursor[:60]!r} is not a next_cursor of this list")
        query = query.where(col(TrainingStep.step) > int(cursor))
    rows = session.exec(query.limit(limit + 1)).all()
    more = len(rows) > limit
    return Page(list(rows[:limit]), str(rows[limit - 1].step) if more else None)


def all_steps(session: Session, run: str) -> list[TrainingStep]:
    """Every step of a training that the record holds."""
    query = select(TrainingStep).where(TrainingStep.run == run).order_by(col(TrainingStep.step))
    return list(session.exec(query))


def last_step(session: Session, run: str) -> TrainingStep | None:
    """The step that a training came to."""
    query = select(TrainingStep).where(TrainingStep.run == run).order_by(col(TrainingStep.step).desc())
    return session.exec(query.limit(1)).first()


def epochs_of(steps: Iterable[TrainingStep]) -> list[Epoch]:
    """The epochs table of steps that come in their order. Pure."""
    return [_epoch(number, list(group)) for number, group in groupby(steps, lambda step: step.epoch)]


def run_of(session: Session, model: str, number: str) -> str:
    """The run that a version came of. Raises `NotFoundError` for an unknown version, and for one that has none."""
    version = get_version(session, model, number)
    run = version.cycle_id or version.facts.get("run")
    if not run:
        raise NotFoundError(f"{model}@{number} was trained elsewhere; the record does not hold its steps")
    return str(run)


def _epoch(number: int, steps: Sequence[TrainingStep]) -> Epoch:
    losses = [step.loss for step in steps if step.loss is not None]
    looked = next((step for step in reversed(steps) if step.validation_loss is not None), None)
    return Epoch(
        epoch=number,
        steps=len(losses),
        train=round(sum(losses) / len(losses), 5) if losses else None,
        validation=looked.validation_loss if looked else None,
        validation_new=looked.validation_new if looked else None,
        validation_old=looked.validation_old if looked else None,
    )
