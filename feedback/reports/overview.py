"""A model's last days at a glance: is it rated better, is it quick, what fails, since when. Found in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta, tzinfo

from msgspec import Struct
from sqlmodel import Session, col, func, select

from feedback.apart import answer_apart, ask_apart
from feedback.datasets.failing_kinds import FailingGroup, FailingKind, find_failing_kinds
from feedback.errors import NotFoundError
from feedback.registry.models import get_model
from feedback.reports.costs import costs_of
from feedback.reports.document import Costs, VersionRow
from feedback.reports.facts import in_form, version_rows
from feedback.reports.proposals import proposals
from feedback.reports.traffic import ALL, Day, Period, Stars, Volume, days, filled, reasons, stars, volumes
from feedback.reports.zones import day_of, midnight, name_of, offsets, zone_named
from feedback.settings import Settings
from feedback.storage.database import open_database
from feedback.storage.tables import Candidate, Case, Failure, Move, RaterHold

PERIODS = (7, 30, 90)
"""Days that can be looked over."""


class Span(Struct):
    """Which overview: a model's last days, today included."""

    settings: Settings
    model: str
    days: int
    now: datetime
    zone: str = "UTC"
    """In which days are counted, by its IANA name; one that is not known is UTC."""

    def period(self) -> Period:
        """From the first of the days to now."""
        since = midnight(self.first_day(self.days), zone_named(self.zone))
        return Period(self.model, since, self.now.timestamp() + 1)

    def first_day(self, days: int) -> date:
        """The first of as many days, today included."""
        return day_of(self.now.timestamp(), zone_named(self.zone)) - timedelta(days=days - 1)


class Mark(Struct):
    """A move of the champion, and the day in `Overview.days` on which it fell."""

    day: int
    version: str
    kind: str


class Overview(Struct, kw_only=True):
    """Shares are 0..1."""

    model: str
    zone: str
    """In which days are counted."""
    since: str
    volume: Volume
    stars: Stars
    before: Stars
    """Of as many days before."""
    versions: list[VersionRow]
    days: list[Day]
    """Every day from the first on which something was asked or said to today."""
    marks: list[Mark]
    reasons: dict[str, int]
    looked_until: str | None
    valid_format: float | None
    kinds: list[FailingKind]
    groups: list[FailingGroup]
    costs: Costs | None = None
    """Of the days since the model is known. None in what an earlier release found."""


class Awaiting(Struct, kw_only=True):
    """What waits for a person, as it stands now."""

    failures: int
    """Failure cases without a right answer."""
    candidates: int
    """Proposed corrections that passed their checks."""
    holds: int
    cases: int
    """Golden cases drawn and not answered."""
    proposed: list[tuple[str, str, str]]
    """Cycles that propose a version: cycle id, version, why."""

    @property
    def nothing(self) -> bool:
        return not (self.failures or self.candidates or self.holds or self.cases or self.proposed)


def awaiting(session: Session, model: str) -> Awaiting:
    """What waits for a decision about a model. Quick: counts alone."""

    def count(table: type[Failure | Candidate | RaterHold | Case], state: str) -> int:
        query = select(func.count()).select_from(table).where(table.model == model, table.state == state)
        return session.exec(query).one()

    return Awaiting(
        failures=count(Failure, "quarantine"),
        candidates=count(Candidate, "checked"),
        holds=count(RaterHold, "held"),
        cases=count(Case, "drawn"),
        proposed=proposals(session, model),
    )


def overview_apart(span: Span) -> Overview:
    """As `look_over`. Raises what that and `ask_apart` raise."""
    return ask_apart("feedback.reports.overview", span, Overview, f"the overview of {span.model[:60]!r}")


def look_over(session: Session, span: Span) -> Overview:
    """A model's last days. Raises `NotFoundError` for an unknown model."""
    configured = span.settings.model_named(span.model)
    get_model(session, span.model)
    if configured is None:
        raise NotFoundError(
            f"the model {span.model[:60]!r} stands in no [[model]] of the configuration any more"
        )
    zone, period = zone_named(span.zone), span.period()
    today, since, until = day_of(span.now.timestamp(), zone), period.since, period.until
    earlier = Period(span.model, midnight(span.first_day(2 * span.days), zone), since)
    volume = volumes(session, period)
    said = stars(session, period, volume)
    failed = reasons(session, period)
    looked_until, _, valid = in_form(session, span.settings, configured, period)
    shown = filled(days(session, period, offsets(zone, since, until)), today)
    kinds = find_failing_kinds(session, span.model, since, until) if failed else None
    return Overview(
        model=span.model,
        zone=name_of(zone),
        since=f"{span.first_day(span.days)}",
        volume=volume[ALL],
        stars=said[ALL],
        before=stars(session, earlier, {})[ALL],
        versions=version_rows(session, span.model, volume, said),
        days=shown,
        marks=_marks(session, period, shown, zone),
        reasons=failed,
        looked_until=looked_until,
        valid_format=valid,
        kinds=kinds.items if kinds else [],
        groups=kinds.groups if kinds else [],
        costs=costs_of(session, span.settings, period, volume[ALL].answers, span.now),
    )


def _marks(session: Session, period: Period, shown: Sequence[Day], zone: tzinfo) -> list[Mark]:
    moves = session.exec(
        select(Move)
        .where(Move.model == period.model, Move.created >= period.since, Move.created < period.until)
        .order_by(col(Move.position))
    )
    places = {day.day: place for place, day in enumerate(shown)}
    found = []
    for move in moves:
        day = f"{day_of(move.created, zone)}"
        if day in places:
            found.append(Mark(places[day], move.to_version or "base", move.kind))
    return found


def _answer(span: Span) -> Overview:
    database = open_database(span.settings)
    try:
        with database.reading() as session:
            return look_over(session, span)
    finally:
        database.close()


if __name__ == "__main__":
    answer_apart(Span, _answer)
