"""Where two people must agree on a failure case: what each of them thinks of it, unseen by the other."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session, col, delete, select

from feedback.datasets.contract import same_answer
from feedback.storage.review_tables import ReviewOpinion
from feedback.storage.tables import Failure

_CHUNK = 500


class Agreement(NamedTuple):
    """How often the first two who decided on a case decided alike."""

    cases: int
    alike: int


def opine(
    session: Session, row: Failure, action: str, correction: str | None, by: str, needed: int, now: datetime
) -> list[str]:
    """Keep one reviewer's opinion, in the place of an earlier one of theirs; who shares it, where they are enough.

    Empty while they are not: the case waits on, and says for whom. The caller commits.
    """
    given = session.get(ReviewOpinion, (row.id, by)) or ReviewOpinion(
        failure_id=row.id,
        reviewer=by,
        inference_id=row.inference_id,
        model=row.model,
        action=action,
        created=0.0,
    )
    given.action, given.correction, given.created = action, correction, now.timestamp()
    session.add(given)
    session.flush()
    said = opinions(session, row.id)
    sharing = [one.reviewer for one in said if _alike(one, given)]
    if len(sharing) >= needed:
        return sharing
    row.waits = _waits(said)
    session.add(row)
    return []


def take_back(session: Session, row: Failure, by: str) -> bool:
    """Forget a reviewer's opinion of a case; False where there was none. The caller commits."""
    given = session.get(ReviewOpinion, (row.id, by))
    if given is None:
        return False
    session.delete(given)
    session.flush()
    row.waits = _waits(opinions(session, row.id))
    session.add(row)
    return True


def forget_opinions(session: Session, failure_id: str) -> None:
    """Forget what everybody thinks of a case. The caller commits."""
    session.exec(delete(ReviewOpinion).where(col(ReviewOpinion.failure_id) == failure_id))


def opinions(session: Session, failure_id: str) -> list[ReviewOpinion]:
    """What reviewers think of a case, in the order in which they said so."""
    query = select(ReviewOpinion).where(ReviewOpinion.failure_id == failure_id)
    return list(session.exec(query.order_by(col(ReviewOpinion.created), col(ReviewOpinion.reviewer))))


def seen_by(session: Session, model: str, by: str, some: Collection[str]) -> set[str]:
    """Those of some cases that this reviewer has an opinion of already."""
    found: set[str] = set()
    ordered = sorted(some)
    for start in range(0, len(ordered), _CHUNK):
        query = select(ReviewOpinion.failure_id).where(
            ReviewOpinion.model == model,
            ReviewOpinion.reviewer == by,
            col(ReviewOpinion.failure_id).in_(ordered[start : start + _CHUNK]),
        )
        found |= set(session.exec(query))
    return found


def agreement(session: Session, model: str) -> Agreement:
    """Over all cases of a model of which two or more have an opinion."""
    query = select(ReviewOpinion).where(ReviewOpinion.model == model)
    ordered = session.exec(
        query.order_by(col(ReviewOpinion.failure_id), col(ReviewOpinion.created), col(ReviewOpinion.reviewer))
    )
    cases = alike = 0
    first: ReviewOpinion | None = None
    place = 0
    for one in ordered:
        if first is None or one.failure_id != first.failure_id:
            first, place = one, 1
            continue
        place += 1
        if place == 2:
            cases += 1
            alike += _alike(first, one)
    return Agreement(cases, alike)


def _alike(one: ReviewOpinion, other: ReviewOpinion) -> bool:
    if one.action != other.action:
        return False
    if one.correction is None or other.correction is None:
        return one.correction == other.correction
    return same_answer(one.correction, other.correction)


def _waits(said: Collection[ReviewOpinion]) -> str | None:
    if not said:
        return None
    if len(said) == 1:
        return "for a second reviewer, who is not shown what the first one decided"
    return f"{len(said)} reviewers decided differently, so another one is asked"
