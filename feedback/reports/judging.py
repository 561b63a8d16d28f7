"""What a judge said of the challengers of a month's cycles, and what its word cost."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlmodel import Session, col, select

from feedback.paired import tango_interval
from feedback.reports.document import JudgedRow
from feedback.storage.tables import Cycle


def judged_in(session: Session, model: str, since: float, until: float) -> list[JudgedRow]:
    """The cycles of a period that a judge was asked in, oldest first; times in Unix seconds."""
    query = select(Cycle).where(Cycle.model == model, Cycle.created >= since, Cycle.created < until)
    return [row for cycle in session.exec(query.order_by(col(Cycle.id))) if (row := _row(cycle)) is not None]


def _row(cycle: Cycle) -> JudgedRow | None:
    result = cycle.result or {}
    judge = result.get("judge")
    if not judge or not judge["cases"]:
        return None
    return JudgedRow(
        at=datetime.fromtimestamp(cycle.created, UTC).isoformat(timespec="seconds"),
        cycle=cycle.id,
        judge=judge["judge"],
        version=cycle.version,
        against=result.get("champion"),
        cases=judge["cases"],
        wins=judge["wins"],
        losses=judge["losses"],
        interval=tango_interval(judge["wins"], judge["losses"], judge["cases"]),
        known=judge["known"],
        agreement=judge["agreement"],
        counts=judge["counts"],
        tokens=judge.get("tokens"),
        cost=judge.get("cost"),
    )
