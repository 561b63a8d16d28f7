"""Candidates in the record: corrections that a model proposed, with what they passed, what they cost and what became of them.

None is a target by itself: a candidate trains where `[teacher] accept = "checked"` and it passed every check of the task,
or where a person accepted it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlmodel import Session, col, func, select

from feedback.access.audit import Act, Actor, note
from feedback.datasets.failures import resolve_failure
from feedback.datasets.ladder import Accepted
from feedback.errors import ConflictError, NotFoundError
from feedback.settings import Settings
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Candidate, Failure

Source = Literal["teacher", "best-of-n"]
_STATES = {"accept": "accepted", "reject": "rejected"}
_ORDER = {"accepted": 0, "teacher": 1, "best-of-n": 2}


def accepted_candidates(session: Session, model: str, checked_too: bool) -> dict[str, Accepted]:
    """The candidate to train on for each inference: a person's choice before a teacher's before the model's own."""
    states = ("accepted", "checked") if checked_too else ("accepted",)
    query = select(Candidate).where(Candidate.model == model, col(Candidate.state).in_(states))
    found: dict[str, Accepted] = {}
    for row in sorted(session.exec(query), key=_rank, reverse=True):
        why = {
            "candidate": row.id,
            "origin": row.origin,
            "checks": row.checks,
            "accepted_by": row.decided_by or '[teacher] accept = "checked"',
        }
        found[row.inference_id] = Accepted(row.answer, row.source, why)
    return found


def proposable(session: Session, model: str, source: Source, limit: int) -> list[Failure]:
    """Failure cases in quarantine for which this source has proposed nothing yet, newest first."""
    known = select(Candidate.inference_id).where(Candidate.model == model, Candidate.source == source)
    query = (
        select(Failure)
        .where(
            Failure.model == model,
            Failure.state == "quarantine",
            col(Failure.resolved).is_(None),
            col(Failure.inference_id).not_in(known),
        )
        .order_by(col(Failure.id).desc())
        .limit(limit)
    )
    return list(session.exec(query))


def known_answer(session: Session, request_hash: str) -> Candidate | None:
    """What the same question was answered before."""
    return session.exec(select(Candidate).where(Candidate.request_hash == request_hash).limit(1)).first()


def spent(session: Session, since: float) -> tuple[int, float]:
    """Tokens and money that teachers took since then; the model's own answers cost no money."""
    query = select(
        func.coalesce(func.sum(Candidate.tokens), 0), func.coalesce(func.sum(Candidate.cost), 0.0)
    ).where(Candidate.created >= since, Candidate.source == "teacher")
    tokens, cost = session.exec(query).one()
    return int(tokens), float(cost)


def list_candidates(
    session: Session, model: str | None, state: str | None, limit: int, cursor: str | None
) -> Page[Candidate]:
    """Candidates, newest first."""
    query = select(Candidate)
    if model is not None:
        query = query.where(Candidate.model == model)
    if state is not None:
        query = query.where(Candidate.state == state)
    return newest_first(session, query, Candidate, limit, cursor)


def candidates_of(session: Session, inference_id: str) -> list[Candidate]:
    """What was proposed for an inference."""
    query = select(Candidate).where(Candidate.inference_id == inference_id).order_by(col(Candidate.id))
    return list(session.exec(query))


def decide_candidate(
    session: Session, identifier: str, action: Literal["accept", "reject"], by: str, now: datetime
) -> Candidate:
    """A person's word on a candidate. The caller commits.

    Raises `NotFoundError`, and `ConflictError` for one that was decided otherwise or breaks the task contract.
    """
    row = session.get(Candidate, identifier)
    if row is None:
        raise NotFoundError(
            f"there is no candidate {identifier[:60]!r}; `starloop failures candidates` shows them"
        )
    state = _STATES[action]
    if row.state in _STATES.values() and row.state != state:
        raise ConflictError(f"candidate {row.id} is {row.state} already, by {row.decided_by}")
    if action == "accept" and row.state == "failed":
        raise ConflictError(
            f"candidate {row.id} does not pass the checks of its task, so it cannot be accepted"
        )
    row.state, row.decided_by, row.decided = state, by, now.timestamp()
    session.add(row)
    session.flush()
    return row


def review_candidate(
    session: Session,
    identifier: str,
    action: Literal["accept", "reject"],
    by: str,
    actor: Actor,
    settings: Settings,
    now: datetime,
) -> Candidate:
    """As `decide_candidate`, with its line in the audit log; but where the model wants two reviewers, accepting is one's word
    for the answer on the failure case, whoever wrote it, and the candidate stays as it is.

    Raises also what `resolve_failure` does.
    """
    row = session.get(Candidate, identifier)
    configured = settings.model_named(row.model) if row is not None else None
    if row is not None and action == "accept" and row.state == "checked":
        case = session.exec(select(Failure.id).where(Failure.inference_id == row.inference_id)).first()
        if case is not None and configured is not None and configured.reviewers > 1:
            resolve_failure(session, case, "correct", row.answer, by, settings, now)
            facts = {"model": row.model, "action": "correct", "candidate": row.id, "by": by}
            note(session, actor, "failure.resolve", case, now, **facts)
            return row
    row = decide_candidate(session, identifier, action, by, now)
    act: Act = "candidate.accept" if action == "accept" else "candidate.reject"
    note(session, actor, act, row.id, now, model=row.model, by=by)
    return row


def undecide_candidates(session: Session, inference_id: str) -> int:
    """Take back what people decided about an inference's candidates; how many there were. The caller commits."""
    decided = [row for row in candidates_of(session, inference_id) if row.state in _STATES.values()]
    for row in decided:
        row.state = "checked" if all(check["passed"] for check in row.checks) else "failed"
        row.decided_by = row.decided = None
        session.add(row)
    return len(decided)


def _rank(row: Candidate) -> int:
    return _ORDER["accepted"] if row.state == "accepted" else _ORDER[row.source]
