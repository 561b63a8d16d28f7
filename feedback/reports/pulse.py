"""Whether something that a page shows has changed: a mark that is another one then, found by a few quick look-ups."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import func
from sqlmodel import Session, col, select

from feedback.datasets.review_queue import count_held, count_waiting
from feedback.reports.overview import awaiting
from feedback.storage.canary_table import Canary
from feedback.storage.tables import Cycle, Move, TrainingStep

Kind = Literal["cycle", "cycles", "overview", "review"]


class Topic(NamedTuple):
    """What a page is about."""

    kind: Kind
    of: str
    """The cycle's id for `cycle`, the model's name for the others."""


class Pulse(Struct, frozen=True):
    """How it stands."""

    mark: str
    """Equal as long as nothing has changed; it says nothing besides."""
    facts: dict[str, int] = {}
    """Figures that a page may show as they are: `waiting` and `held` failure cases for `review`."""


def pulse_of(session: Session, topic: Topic, now: datetime) -> Pulse:
    """How a topic stands now. Of what there is not, it is always the same."""
    facts: dict[str, int] = {}
    seen: Any
    if topic.kind == "cycle":
        seen = _cycle(session, topic.of)
    elif topic.kind == "cycles":
        cycles = select(func.count(), func.max(Cycle.updated)).where(Cycle.model == topic.of)
        seen = tuple(session.exec(cycles).one())
    elif topic.kind == "overview":
        seen = awaiting(session, topic.of)
    else:
        seen = facts = review_facts(session, topic.of, now)
    return Pulse(mark_of(seen), facts)


def review_facts(session: Session, model: str, now: datetime) -> dict[str, int]:
    """What the review page is about."""
    return {"waiting": count_waiting(session, model), "held": count_held(session, model, now)}


def mark_of(seen: Any) -> str:
    """The mark of what was seen of a topic: `awaiting` for `overview`, `review_facts` for `review`."""
    return blake2b(msgspec.json.encode(seen), digest_size=8).hexdigest()


def _cycle(session: Session, cycle_id: str) -> list[Any]:
    cycle = select(  # type: ignore[call-overload]
        Cycle.updated, Cycle.state, Cycle.step, Cycle.steps, Cycle.decision, Cycle.cancel_requested
    ).where(Cycle.id == cycle_id)
    trained = select(func.count(), func.max(TrainingStep.step), func.max(TrainingStep.created)).where(
        TrainingStep.run == cycle_id
    )
    moves = select(func.count()).select_from(Move).where(Move.cycle_id == cycle_id)
    trials = (
        select(Canary.kind, Canary.state, Canary.reason, Canary.result)
        .where(Canary.cycle_id == cycle_id)
        .order_by(col(Canary.id))
    )
    return [
        [tuple(row) for row in session.connection().execute(query)]
        for query in (cycle, trained, moves, trials)
    ]
