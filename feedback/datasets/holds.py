"""What brigade detection held for a reviewer, in the record: found once, held until a person decides."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlmodel import Session, col, select

from feedback.datasets.brigades import Brigade
from feedback.errors import ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Feedback, RaterHold

_STATES = {"release": "released", "uphold": "upheld"}
_CHUNK = 500


def keep_holds(session: Session, model: str, brigades: Sequence[Brigade], now: datetime) -> None:
    """Hold what was found and is not held yet; what came to a target that is held joins it. The caller commits."""
    rows = list(session.exec(select(RaterHold).where(RaterHold.model == model)))
    known = {identifier for row in rows for identifier in row.feedback}
    open_rows = {(row.kind, row.target): row for row in rows if row.state == "held"}
    for brigade in brigades:
        fresh = [identifier for identifier in brigade.feedback if identifier not in known]
        if not fresh:
            continue
        known.update(fresh)
        row = open_rows.get((brigade.kind, brigade.target))
        if row is None:
            row = RaterHold(
                id=new_id(now),
                model=model,
                created=now.timestamp(),
                kind=brigade.kind,
                target=brigade.target,
                feedback=[],
                reason="",
            )
        row.feedback = [*row.feedback, *fresh]
        row.reason = _reason(brigade)
        session.add(row)
    session.flush()


def held_feedback(session: Session, model: str) -> dict[str, str]:
    """Feedback that does not count, with the id of what holds it."""
    query = select(RaterHold).where(RaterHold.model == model, RaterHold.state != "released")
    return {identifier: row.id for row in session.exec(query) for identifier in row.feedback}


def released_feedback(session: Session, model: str) -> set[str]:
    """Feedback that a reviewer has let go."""
    query = select(RaterHold).where(RaterHold.model == model, RaterHold.state == "released")
    return {identifier for row in session.exec(query) for identifier in row.feedback}


def list_holds(
    session: Session, model: str | None, state: str | None, limit: int, cursor: str | None
) -> Page[RaterHold]:
    """Holds, newest first."""
    query = select(RaterHold)
    if model is not None:
        query = query.where(RaterHold.model == model)
    if state is not None:
        query = query.where(RaterHold.state == state)
    return newest_first(session, query, RaterHold, limit, cursor)


def read_hold(session: Session, identifier: str) -> RaterHold:
    """One hold. Raises `NotFoundError`."""
    row = session.get(RaterHold, identifier)
    if row is None:
        raise NotFoundError(f"there is no hold {identifier[:60]!r}; `starloop raters holds` shows them")
    return row


def said_in(session: Session, row: RaterHold) -> list[Feedback]:
    """All that waits in a hold, oldest first."""
    said: list[Feedback] = []
    for start in range(0, len(row.feedback), _CHUNK):
        query = select(Feedback).where(col(Feedback.id).in_(row.feedback[start : start + _CHUNK]))
        said += session.exec(query.order_by(col(Feedback.id)))
    return said


def decide_hold(
    session: Session, identifier: str, action: Literal["release", "uphold"], by: str, now: datetime
) -> RaterHold:
    """A reviewer's word: what is held counts from the next dataset version on, or never. The caller commits.

    Raises `NotFoundError`, and `ConflictError` where it was decided otherwise already.
    """
    row = read_hold(session, identifier)
    state = _STATES[action]
    if row.state not in ("held", state):
        raise ConflictError(f"hold {row.id} is {row.state} already, by {row.decided_by}")
    row.state, row.decided_by, row.decided = state, by, now.timestamp()
    session.add(row)
    session.flush()
    return row


def _reason(found: Brigade) -> str:
    what = {
        "group": "one prompt or such as are nearly the same",
        "correction": f"one and the same correction ({found.target[:60]})",
        "version": f"version {found.target}",
    }[found.kind]
    minutes = max(1, round((found.last - found.first) / 60))
    return (
        f"{found.raters} of {found.of} raters on {what} within {minutes} min were new; elsewhere "
        f"{found.usual:.0%} were at that time"
    )
