"""What was asked and said in a period, summed by the database: memory does not grow with the traffic.

Durations are counted in classes of one millisecond, of ten from a second on: percentiles are exact to that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from math import sqrt
from typing import Any

from msgspec import Struct
from sqlalchemy import BigInteger, Select, and_, case, cast, func, or_
from sqlalchemy import select as columns_of
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from feedback.ids import first_id_at
from feedback.reports.zones import Offset
from feedback.storage.inferences import has_reason
from feedback.storage.tables import Failure, Feedback, Inference

_OUTCOMES = (
    col(Inference.status) < 400,
    and_(col(Inference.status) >= 400, col(Inference.status) != 499),
)
"""Answered, and failed; a client that went away is neither."""
_NONE = ("accepted", "dismissed")
"""States of failure cases of which somebody has said that they are none."""
_FINE = 1000.0
_COARSE = 10
Histogram = Mapping[int, int]


class Period(Struct, frozen=True):
    """A model's production traffic between two moments."""

    model: str
    since: float
    until: float
    """Unix seconds; `since` inclusive, `until` exclusive."""

    def covers(self) -> Any:
        """The condition on `Inference`.

        It names the versions, so that the index on model, version and id leads to the period alone in a record of years.
        """
        return and_(
            col(Inference.model) == self.model,
            col(Inference.version).in_(_versions(self.model)),
            col(Inference.purpose) == "production",
            col(Inference.id) >= first_id_at(self.since),
            col(Inference.id) < first_id_at(self.until),
        )


def _versions(model: str) -> Any:
    """The versions of a model that ever answered: from one to the next by the index, whatever lies between."""
    after = aliased(Inference)
    of_all = columns_of(func.min(col(Inference.version)).label("name")).where(col(Inference.model) == model)
    found = of_all.cte("versions", recursive=True)
    following = columns_of(func.min(col(after.version))).where(
        col(after.model) == model, col(after.version) > found.c.name
    )
    found = found.union_all(columns_of(following.scalar_subquery()).where(found.c.name.is_not(None)))
    return columns_of(found.c.name).where(found.c.name.is_not(None))


class Volume(Struct, kw_only=True):
    """Answers of one version, or of all."""

    answers: int = 0
    errors: int = 0
    """Requests that got no answer; those whose client went away are not counted."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    first_token_p50_ms: float | None = None
    """Of streamed answers alone."""
    first_token_p95_ms: float | None = None


class Stars(Struct, kw_only=True):
    """Ratings, with the user as the unit: each rater counts once, with the mean of what they gave."""

    ratings: int = 0
    raters: int = 0
    mean: float | None = None
    interval: tuple[float, float] | None = None
    """At 95 % (Student's t over the raters' means); none with fewer than two raters."""
    rated_share: float | None = None
    """Share of answers that somebody rated."""


class Looked(Struct, kw_only=True):
    """How much of a period triage has looked at."""

    requests: int = 0
    """Answers and errors."""
    answers: int = 0
    texts: int = 0
    """Answers whose text was kept: of the others (`store: false`, or metadata alone is kept) triage sees no form."""


class Day(Struct, kw_only=True):
    """One day of the period, in the zone in which they were asked for."""

    day: str
    answers: int = 0
    ratings: int = 0
    raters: int = 0
    mean: float | None = None
    interval: tuple[float, float] | None = None
    """At 95 %, as in `Stars`."""
    p95_ms: float | None = None
    """Within which 95 % of its answers came; where it was asked for."""


def volumes(session: Session, period: Period) -> dict[str, Volume]:
    """By version."""
    milliseconds = _class_of(col(Inference.latency_ms))
    good, failed = _OUTCOMES
    query: Select[Any] = (
        columns_of(
            col(Inference.version),
            milliseconds,
            func.count().filter(good),
            func.count().filter(failed),
            func.coalesce(func.sum(col(Inference.prompt_tokens)), 0),
            func.coalesce(func.sum(col(Inference.completion_tokens)), 0),
        )
        .where(period.covers())
        .group_by(col(Inference.version), milliseconds)
    )
    found: dict[str, Volume] = defaultdict(Volume)
    taken: dict[str, dict[int, int]] = defaultdict(dict)
    for version, ms, answers, errors, asked, written in session.connection().execute(query):
        volume = found[version]
        volume.answers += answers
        volume.errors += errors
        volume.prompt_tokens += int(asked)
        volume.completion_tokens += int(written)
        taken[version][ms] = answers
    first = _first_tokens(session, period)
    for version, volume in found.items():
        volume.p50_ms, volume.p95_ms = (percentile(taken[version], share) for share in (0.5, 0.95))
        volume.first_token_p50_ms, volume.first_token_p95_ms = (
            percentile(first.get(version, {}), share) for share in (0.5, 0.95)
        )
    if len(found) > 1:
        together = Volume(
            **{
                name: sum(getattr(volume, name) for volume in found.values())
                for name in ("answers", "errors", "prompt_tokens", "completion_tokens")
            }
        )
        together.p50_ms, together.p95_ms = (
            percentile(_added(taken.values()), share) for share in (0.5, 0.95)
        )
        together.first_token_p50_ms, together.first_token_p95_ms = (
            percentile(_added(first.values()), share) for share in (0.5, 0.95)
        )
        return {ALL: together, **found}
    return {ALL: next(iter(found.values()), Volume()), **found}


ALL = ""
"""The key under which the sums over all versions stand."""


def looked_at(session: Session, period: Period) -> Looked:
    """What there is for triage to look at."""
    good, failed = _OUTCOMES
    seen = (col(Inference.status) == 200) & col(Inference.stored).is_(True)
    requests, answers, texts = (func.count().filter(which) for which in (or_(good, failed), good, seen))
    query = columns_of(requests, answers, texts).where(period.covers())
    counts = session.connection().execute(query).one()
    return Looked(requests=counts[0], answers=counts[1], texts=counts[2])


def stars(session: Session, period: Period, volume: Mapping[str, Volume]) -> dict[str, Stars]:
    """By version, also of those that answered and nobody rated, and of all."""
    found = {ALL: _stars(session, period, None).get(None, Stars())} | {
        version: told for version, told in stars_by_version(session, period).items() if version
    }
    for version in volume:
        found.setdefault(version, Stars())
    for version, told in found.items():
        answers = volume[version].answers if version in volume else 0
        rated = _rated(session, period, version or None) if told.ratings else 0
        told.rated_share = rated / answers if answers else None
    return found


def stars_by_version(session: Session, period: Period) -> dict[str, Stars]:
    """Of each version that was rated, without the share of answers that were."""
    return _stars(session, period, col(Inference.version))


def days(session: Session, period: Period, ahead: Sequence[Offset] = (), timed: bool = False) -> list[Day]:
    """Every day on which something was asked or said, in order; in UTC, unless the offsets of another zone are given.

    `timed` looks for `p95_ms` too.
    """
    found: dict[int, Day] = {}

    def day_of(number: int) -> Day:
        return found.setdefault(number, Day(day=_date(number)))

    here = col(Inference.created) + _ahead(ahead)
    asked = cast(func.round(here / 86400 - 0.5 + 1e-9), BigInteger)  # both databases have it, unlike floor
    parts = [asked, _class_of(col(Inference.latency_ms))] if timed else [asked]
    counted = columns_of(func.count(), *parts).where(period.covers(), _OUTCOMES[0]).group_by(*parts)
    taken: dict[int, dict[int, int]] = defaultdict(dict)
    for answers, number, *ms in session.connection().execute(counted):
        taken[number][ms[0] if timed else 0] = answers
    for number, times in taken.items():
        day_of(number).answers = sum(times.values())
        day_of(number).p95_ms = percentile(times, 0.95) if timed else None
    for number, said in _stars(session, period, asked).items():
        day = day_of(number)
        day.ratings, day.raters, day.mean, day.interval = said.ratings, said.raters, said.mean, said.interval
    return [found[number] for number in sorted(found)]


def filled(found: Sequence[Day], last: date) -> list[Day]:
    """With the days on which nothing was, from the first of them to `last`; none of none."""
    if not found:
        return []
    known = {day.day: day for day in found}
    first = date.fromisoformat(found[0].day)
    names = [f"{first + timedelta(days=place)}" for place in range((last - first).days + 1)]
    return [known.get(name) or Day(day=name) for name in names]


def _ahead(offsets: Sequence[Offset]) -> Any:
    """Seconds that the days' zone is ahead of UTC when a request was made."""
    *earlier, last = [one.seconds for one in offsets] or [0]
    if not earlier:
        return last
    steps = zip(offsets, earlier, strict=False)
    return case(*((col(Inference.created) < one.until, seconds) for one, seconds in steps), else_=last)


def reasons(session: Session, period: Period) -> dict[str, int]:
    """How many answers were selected as failures, by reason, most first; without those found to be none."""
    query = select(Failure.reasons).where(_failures(period), col(Failure.state).not_in(_NONE))
    counts: dict[str, int] = defaultdict(int)
    for told in session.exec(query.execution_options(yield_per=2000)):
        for name in {str(one["reason"]) for one in told}:
            counts[name] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def cleared(session: Session, period: Period) -> int:
    """How many answers that triage had selected a reviewer found to be no failures."""
    reviewed = col(Failure.state).in_(_NONE) & col(Failure.resolved).is_not(None)
    return session.exec(select(func.count()).where(_failures(period), reviewed)).one()


def misformed(session: Session, period: Period) -> int:
    """How many answers break the task contract, whatever a reviewer made of them."""
    return session.exec(select(func.count()).where(_failures(period), has_reason("schema_invalid"))).one()


def _failures(period: Period) -> Any:
    return and_(
        col(Failure.model) == period.model,
        col(Failure.inference_id) >= first_id_at(period.since),
        col(Failure.inference_id) < first_id_at(period.until),
    )


def percentile(counts: Histogram, share: float) -> float | None:
    """The smallest value that at least that share of all does not exceed; None of nothing."""
    total = sum(counts.values())
    if not total:
        return None
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * total:
            return float(value)
    raise AssertionError("shares are at most 1")


def _class_of(duration: Any) -> Any:
    fine = cast(func.round(duration), BigInteger)
    coarse = cast(func.round(duration / _COARSE), BigInteger) * _COARSE
    return case((duration < _FINE, fine), else_=coarse)


def _first_tokens(session: Session, period: Period) -> dict[str, dict[int, int]]:
    milliseconds = _class_of(col(Inference.first_token_ms))
    query: Select[Any] = (
        columns_of(col(Inference.version), milliseconds, func.count())
        .where(period.covers(), col(Inference.streamed).is_(True), col(Inference.first_token_ms).is_not(None))
        .group_by(col(Inference.version), milliseconds)
    )
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for version, ms, count in session.connection().execute(query):
        found[version][ms] = count
    return found


def _by_rater(period: Period, part: Any) -> Any:
    """Each rater's mean, within each part."""
    return (
        columns_of(
            part.label("part"),
            col(Feedback.rater),
            func.count().label("count"),
            func.avg(col(Feedback.rating)).label("mean"),
        )
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(period.covers(), col(Feedback.current).is_(True), col(Feedback.rating).is_not(None))
        .group_by(part, col(Feedback.rater))
    )


def _stars(session: Session, period: Period, part: Any) -> dict[Any, Stars]:
    """By the part that the column `part` tells; without one, all of the model under None."""
    means = _by_rater(period, col(Inference.model) if part is None else part).subquery()
    query = columns_of(
        means.c.part,
        func.count(),
        func.sum(means.c.count),
        func.avg(means.c.mean),
        func.sum(means.c.mean * means.c.mean),
    ).group_by(means.c.part)
    found: dict[Any, Stars] = {}
    for name, raters, ratings, mean, squares in session.connection().execute(query):
        told = Stars(ratings=int(ratings), raters=int(raters), mean=float(mean))
        if told.raters > 1:
            told.interval = _interval(told.raters, float(mean), float(squares))
        found[None if part is None else name] = told
    return found


def _interval(count: int, mean: float, squares: float) -> tuple[float, float]:
    from scipy.special import stdtrit  # half a second to import, for this alone

    variance = max(0.0, squares - count * mean * mean) / (count - 1)
    half = float(stdtrit(count - 1, 0.975)) * sqrt(variance / count)
    return max(1.0, mean - half), min(5.0, mean + half)


def _rated(session: Session, period: Period, version: str | None) -> int:
    query = (
        select(func.count(func.distinct(col(Feedback.inference_id))))
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(period.covers(), col(Feedback.current).is_(True), col(Feedback.rating).is_not(None))
    )
    if version is not None:
        query = query.where(Inference.version == version)
    return session.exec(query).one()


def _added(histograms: Iterable[Histogram]) -> dict[int, int]:
    total: dict[int, int] = defaultdict(int)
    for histogram in histograms:
        for value, count in histogram.items():
            total[value] += count
    return total


def _date(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=int(number))).isoformat()
