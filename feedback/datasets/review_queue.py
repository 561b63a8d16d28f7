"""The queue of review: failure cases that wait for a person, those first whose decision teaches most, one reviewer a case."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import log2
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, CursorResult, literal_column, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete, exists, func, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from feedback.datasets.believed import Belief
from feedback.datasets.groups import groups_by_hash, prompt_hash
from feedback.datasets.raters import BAD
from feedback.errors import BadFieldError
from feedback.storage.review_tables import ReviewClaim, ReviewOpinion
from feedback.storage.tables import Candidate, Failure, Feedback, Inference

LOOKED_AT = 2000
"""Waiting cases that are put in order, the newest."""
CLAIM_SECONDS = 300.0
"""How long a case is kept for who looks at it; their page asks again before that is over."""
_CHUNK = 500
_TRIED = 200
# Spelt out: a database finds that a partial index fits only where it sees the value.
_ACCEPTED = col(Candidate.state) == literal_column("'accepted'")
_HOLDER = re.compile(r"[A-Za-z0-9:-]{8,128}", re.ASCII)


class Waiting(NamedTuple):
    """A case that waits, with what its place in the queue comes from."""

    failure_id: str
    confidence: float
    """Of its surest reason."""
    alike: int
    """Waiting cases whose prompts are near duplicates, itself included."""
    belief: float
    """How far who complained is believed, 0..1; 1 where a rule found it and nobody spoke."""

    @property
    def value(self) -> float:
        """How much a decision teaches: one on many alike teaches more, but not as many times more."""
        return self.confidence * self.belief * (1 + log2(self.alike))


def waiting(model: str) -> ColumnElement[bool]:
    """The condition on failure cases that no person decided on and that no correction was believed for."""
    chosen = exists().where(col(Candidate.inference_id) == col(Failure.inference_id), _ACCEPTED)
    return _undecided(model) & ~chosen


def count_waiting(session: Session, model: str) -> int:
    """How many cases wait for a person."""
    undecided = session.exec(select(func.count()).select_from(Failure).where(_undecided(model))).one()
    # Few are chosen and not curated yet: taken off, they cost less than a look for each of those that wait.
    chosen = select(func.count(func.distinct(col(Candidate.inference_id)))).where(
        _ACCEPTED, exists().where(col(Failure.inference_id) == col(Candidate.inference_id), _undecided(model))
    )
    return undecided - session.exec(chosen).one()


def is_choice(session: Session, model: str) -> bool:
    """Whether more than one case waits."""
    return len(session.exec(select(Failure.id).where(waiting(model)).limit(2)).all()) > 1


def queue(session: Session, model: str, belief: Belief) -> list[Waiting]:
    """The newest waiting cases, those first whose decision teaches most; of equals, the newest."""
    rows = session.exec(
        _newest(model, Failure.id, Failure.inference_id, Failure.reasons, Inference.prompt)
    ).all()
    groups = _groups(session, {inference_id: prompt for _, inference_id, _, prompt in rows})
    sizes = Counter(groups.values())
    raters = _complaining(session, model)
    found = [
        Waiting(
            identifier,
            max((float(one["confidence"]) for one in reasons), default=0.0),
            sizes[groups[inference_id]] if inference_id in groups else 1,
            max(map(belief.share, raters[inference_id])) if inference_id in raters else 1.0,
        )
        for identifier, inference_id, reasons, _ in rows
    ]
    return sorted(found, key=lambda one: -one.value)


def claim_first(
    session: Session,
    order: Sequence[str],
    model: str,
    holder: str,
    now: datetime,
    seconds: float = CLAIM_SECONDS,
) -> str | None:
    """Keep the first case of an order that is free for a holder, who lets go of any other; None where none is free.

    Raises `BadFieldError` for a holder that cannot be one. The caller commits.
    """
    if _HOLDER.fullmatch(holder) is None:
        raise BadFieldError("holder", "must be 8 to 100 letters, digits or hyphens, made anew by each page")
    moment = now.timestamp()
    session.exec(
        delete(ReviewClaim).where(or_(col(ReviewClaim.expires) < moment, col(ReviewClaim.holder) == holder))
    )
    for start in range(0, len(order), _TRIED):
        some = order[start : start + _TRIED]
        taken = set(session.exec(select(ReviewClaim.failure_id).where(col(ReviewClaim.failure_id).in_(some))))
        still: SelectOfScalar[str] = select(Failure.id).where(waiting(model), col(Failure.id).in_(some))
        free = set(session.exec(still)) - taken
        for identifier in some:
            if identifier in free and _claim(session, identifier, holder, moment, moment + seconds):
                return identifier
    return None


def alike_waiting(session: Session, row: Failure, now: datetime) -> list[str]:
    """The other waiting cases whose prompts are near duplicates of a case's, less those that somebody looks at."""
    rows = session.exec(_newest(row.model, Failure.id, Failure.inference_id, Inference.prompt)).all()
    own = session.exec(select(Inference.prompt).where(Inference.id == row.inference_id)).first()
    prompts = {inference_id: prompt for _, inference_id, prompt in rows}
    groups = _groups(session, prompts | {row.inference_id: own})
    if row.inference_id not in groups:
        return []
    same = [
        identifier
        for identifier, inference_id, _ in rows
        if identifier != row.id and groups.get(inference_id) == groups[row.inference_id]
    ]
    held: set[str] = set()
    for start in range(0, len(same), _CHUNK):
        held |= set(
            session.exec(
                select(ReviewClaim.failure_id).where(
                    col(ReviewClaim.failure_id).in_(same[start : start + _CHUNK]),
                    col(ReviewClaim.expires) >= now.timestamp(),
                )
            )
        )
    return [identifier for identifier in same if identifier not in held]


def release(session: Session, failure_id: str, holder: str) -> None:
    """Let go of a case; one that is not held by this holder stays as it is. The caller commits."""
    session.exec(
        delete(ReviewClaim).where(
            col(ReviewClaim.failure_id) == failure_id, col(ReviewClaim.holder) == holder
        )
    )


def count_held(session: Session, model: str, now: datetime, besides: str = "") -> int:
    """How many cases of a model others are looking at."""
    own = exists().where(col(Failure.id) == col(ReviewClaim.failure_id), col(Failure.model) == model)
    query = select(func.count()).where(
        ReviewClaim.expires >= now.timestamp(), ReviewClaim.holder != besides, own
    )
    return session.exec(query).one()


def count_decided(session: Session, model: str, by: str, since: float) -> int:
    """Cases that a person decided on since then, by their own word (one of two too) or by accepting a candidate."""
    own = select(func.count()).where(
        Failure.model == model, Failure.resolved_by == by, col(Failure.resolved) >= since
    )
    one_of_two = select(func.count()).where(
        ReviewOpinion.model == model, ReviewOpinion.reviewer == by, col(ReviewOpinion.created) >= since
    )
    chosen = select(func.count()).where(
        Candidate.model == model,
        Candidate.state == "accepted",
        Candidate.decided_by == by,
        col(Candidate.decided) >= since,
    )
    return sum(session.exec(query).one() for query in (own, one_of_two, chosen))


def _undecided(model: str) -> ColumnElement[bool]:
    return (
        (col(Failure.model) == model) & (col(Failure.state) == "quarantine") & col(Failure.resolved).is_(None)
    )


def _claim(session: Session, failure_id: str, holder: str, now: float, until: float) -> bool:
    """Whether the case is this holder's now. Others that try at the same moment wait for this transaction's end."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    row = {"failure_id": failure_id, "holder": holder, "expires": until}
    session.exec(dialect.insert(ReviewClaim).values(row).on_conflict_do_nothing())
    result = session.exec(
        update(ReviewClaim)
        .where(
            col(ReviewClaim.failure_id) == failure_id,
            or_(col(ReviewClaim.holder) == holder, col(ReviewClaim.expires) < now),
        )
        .values(holder=holder, expires=until)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def _newest(model: str, *columns: Any) -> Any:
    """Columns of the newest waiting cases and, where these are there, of their inferences."""
    order = col(Failure.id).desc()
    newest = select(Failure.id).where(waiting(model)).order_by(order).limit(LOOKED_AT).subquery()
    return (
        select(*columns)
        .select_from(newest)
        .join(Failure, col(Failure.id) == newest.c.id)
        .outerjoin(Inference, col(Inference.id) == col(Failure.inference_id))
        .order_by(order)
    )


def _groups(session: Session, prompts: Mapping[str, str | None]) -> dict[str, str]:
    """The group of each inference that has a prompt; one that was not placed yet is a group with those equal to it."""
    hashes = {identifier: prompt_hash(prompt) for identifier, prompt in prompts.items() if prompt}
    known = groups_by_hash(session, sorted(set(hashes.values())))
    return {identifier: known[key].key if key in known else key for identifier, key in hashes.items()}


def _complaining(session: Session, model: str) -> dict[str, set[str]]:
    """Who rated the newest waiting cases' inferences low, or wrote a correction."""
    found: dict[str, set[str]] = defaultdict(set)
    query = (
        _newest(model, Feedback.inference_id, Feedback.rater)
        .join(Feedback, col(Feedback.inference_id) == col(Failure.inference_id))
        .where(col(Feedback.current), or_(col(Feedback.rating) <= BAD, col(Feedback.correction).is_not(None)))
    )
    for inference_id, rater in session.exec(query):
        found[inference_id].add(rater)
    return found
