"""What has come into the database since a moment, as spans of ids: so that triage reads on instead of from the start.

An id says when its row was made. A long answer, or a journal that was carried hours later, brings rows whose ids lie
before others that were read long ago; hence each batch leaves a line of its own, of about a hundred bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import delete, insert
from sqlmodel import Session, col, func, select

from feedback.ids import time_of
from feedback.storage.arrival_tables import Arrival
from feedback.storage.records import FeedbackRecord, InferenceRecord

KEPT_DAYS = 30
"""Whoever reads on from an older moment reads everything."""
# Transactions that ran beside each other, and clocks of two gateways, put lines behind the last one that was read.
OVERLAP_SECONDS = 60.0
# What lies between two batches of one hour has been read at most once more for nothing; a query for each takes longer.
_JOINED = timedelta(hours=1)


class Span(NamedTuple):
    """Ids from the first to the last, both included."""

    first: str
    last: str


EVERYTHING = Span("", "g")
"""Ids are hexadecimal digits and dashes, which no collation puts behind a g."""


class Arrived(NamedTuple):
    """What came since a moment."""

    inferences: list[Span]
    """Apart from each other, oldest first."""
    feedback: list[Span]
    stored: float
    """Moment of the newest line: where the next reading goes on. 0 where there is none."""


def note_arrival(
    session: Session,
    inferences: Sequence[InferenceRecord],
    feedback: Sequence[FeedbackRecord],
    now: float,
) -> None:
    """Write down, in the session's transaction, between which ids a batch lies."""
    asked = [record.id for record in inferences]
    said = [record.id for record in feedback]
    line = {
        "stored": now,
        "first_inference": min(asked, default=None),
        "last_inference": max(asked, default=None),
        "first_feedback": min(said, default=None),
        "last_feedback": max(said, default=None),
    }
    session.connection().execute(insert(Arrival), line)


def arrived_since(session: Session, stored: float | None) -> Arrived:
    """What came after `stored`, with a minute before it; with None, or after more than a month, everything."""
    oldest, newest = session.exec(select(func.min(Arrival.stored), func.max(Arrival.stored))).one()
    if stored is None or oldest is None or stored < oldest:
        return Arrived([EVERYTHING], [], newest or 0.0)
    lines = session.exec(select(Arrival).where(col(Arrival.stored) > stored - OVERLAP_SECONDS)).all()
    return Arrived(
        _merged((line.first_inference, line.last_inference) for line in lines),
        _merged((line.first_feedback, line.last_feedback) for line in lines),
        newest,
    )


def forget_arrivals(session: Session, now: float) -> None:
    """Delete lines that are older than `KEPT_DAYS`."""
    old = col(Arrival.stored) < now - KEPT_DAYS * 86_400
    session.connection().execute(delete(Arrival).where(old))


def _merged(pairs: Iterable[tuple[str | None, str | None]]) -> list[Span]:
    spans: list[Span] = []
    for first, last in sorted((one, other) for one, other in pairs if one is not None and other is not None):
        if spans and time_of(first) - time_of(spans[-1].last) <= _JOINED:
            spans[-1] = Span(spans[-1].first, max(spans[-1].last, last))
        else:
            spans.append(Span(first, last))
    return spans
