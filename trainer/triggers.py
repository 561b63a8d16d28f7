"""When a cycle of a model begins besides the schedule: enough new corrections or ratings, or ratings that fell.

All are off unless set, and none starts a second cycle for what a first one has seen: corrections and ratings count from the last
cycle on, and a day's ratings are judged once, against the days before them on the same version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta

from sqlalchemy import ColumnElement, Select, and_, or_
from sqlalchemy import select as columns_of
from sqlmodel import Session, col, func, select

from feedback.ids import first_id_at
from feedback.registry.models import get_model
from feedback.settings import Schedule
from feedback.storage.inferences import of_model
from feedback.storage.tables import Cycle, Failure, Feedback, Inference, Move
from trainer.canary import Arm, arm_of, means_by_user

_BEFORE = timedelta(days=28)
_SURE = 2.576
"""Standard errors; one day in 200 would be called by chance."""
_LEAST_USERS = 30


def reason_to_begin(session: Session, model: str, wanted: Schedule, now: datetime) -> str | None:
    """Why a cycle of the model should begin now, in words; None where nothing asks for one."""
    # of the last cycle until now: one in time to come was begun before the clock was set back
    last = session.exec(
        select(Cycle.created)
        .where(Cycle.model == model, col(Cycle.created) <= now.timestamp())
        .order_by(col(Cycle.id).desc())
        .limit(1)
    ).first()
    if wanted.new_corrections:
        came = _corrections(session, model, last or 0.0)
        if came >= wanted.new_corrections:
            return f"{came} new corrections"
    if wanted.new_ratings:
        came = _opinions(session, model, last or 0.0)
        if came >= wanted.new_ratings:
            return f"{came} new ratings"
    if wanted.rating_drop and (last is None or last < _midnight(now).timestamp()):
        return fell(*_days(session, model, now), wanted.rating_drop)
    return None


def fell(before: Arm, lately: Arm, drop: float) -> str | None:
    """Whether the mean stars fell by `drop` or more, beyond chance; each user counts once on each side."""
    if min(before.users, lately.users) < _LEAST_USERS or before.mean - lately.mean < drop:
        return None
    error = math.sqrt(before.variance / before.users + lately.variance / lately.users)
    if before.mean - lately.mean <= _SURE * error:
        return None
    return f"ratings fell from {before.mean:.2f} to {lately.mean:.2f} stars"


def _corrections(session: Session, model: str, since: float) -> int:
    """Inferences of the model that were corrected since a moment, by users or by a reviewer."""
    by_users = _answers(model, since, col(Feedback.correction).is_not(None))
    by_reviewers = (
        columns_of(func.count())
        .select_from(Failure)
        .where(
            col(Failure.model) == model,
            col(Failure.state) == "corrected",
            col(Failure.resolved) >= since,
            col(Failure.resolved_by).is_not(None),
        )
    )
    return sum(int(session.connection().execute(query).scalar_one()) for query in (by_users, by_reviewers))


def _opinions(session: Session, model: str, since: float) -> int:
    """Inferences of the model that were rated, or preferred to another, since a moment, without a correction."""
    said = or_(col(Feedback.rating).is_not(None), col(Feedback.preferred_over).is_not(None))
    query = _answers(model, since, and_(col(Feedback.correction).is_(None), said))
    return int(session.connection().execute(query).scalar_one())


def _answers(model: str, since: float, said: ColumnElement[bool]) -> Select[int]:
    """How many answers of the model users said such a thing of since a moment, as far as it still stands."""
    return (
        columns_of(func.count(func.distinct(col(Feedback.inference_id))))
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(
            col(Feedback.id) >= first_id_at(since),
            col(Feedback.current).is_(True),
            said,
            of_model(model),
            col(Inference.purpose) == "production",
        )
    )


def _days(session: Session, model: str, now: datetime) -> tuple[Arm, Arm]:
    """Ratings of the champion's answers before yesterday, and yesterday (UTC); nothing before it was promoted."""
    champion = get_model(session, model).champion
    moved = session.exec(
        select(Move.created).where(Move.model == model).order_by(col(Move.position).desc()).limit(1)
    ).first()
    end = _midnight(now)
    begin = end - timedelta(days=1)
    since = max((end - _BEFORE).timestamp(), moved or 0.0)

    def arm(first: float, last: float) -> Arm:
        means, ratings = means_by_user(_ratings(session, model, champion or "base", first, last))
        return arm_of(means, ratings, ratings)

    return arm(since, begin.timestamp()), arm(max(since, begin.timestamp()), end.timestamp())


def _ratings(
    session: Session, model: str, version: str, first: float, last: float
) -> Iterable[tuple[str, int]]:
    query = (
        columns_of(col(Feedback.rater), col(Feedback.rating))
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(
            col(Inference.model) == model,
            col(Inference.version) == version,
            col(Inference.id) >= first_id_at(first),
            col(Inference.id) < first_id_at(last),
            col(Inference.purpose) == "production",
            col(Feedback.current).is_(True),
            col(Feedback.rating).is_not(None),
            col(Feedback.source) == "user",
        )
    )
    for rater, stars in session.connection().execute(query.execution_options(yield_per=1000)):
        yield rater, int(stars or 0)


def _midnight(now: datetime) -> datetime:
    return datetime.combine(now.astimezone(UTC).date(), time(), UTC)
