"""How a model's versions were rated lately, for their timeline. Found in a process of its own."""

from __future__ import annotations

from msgspec import Struct

from feedback.apart import answer_apart, ask_apart
from feedback.reports.overview import Span
from feedback.reports.traffic import Stars, stars_by_version
from feedback.storage.database import open_database


class VersionStars(Struct):
    """By version number; of those that were rated."""

    since: str
    """The first day, in the zone that was asked for."""
    stars: dict[str, Stars]


def version_stars_apart(span: Span) -> VersionStars:
    """Over a model's last days. Raises what `ask_apart` raises."""
    return ask_apart(
        "feedback.reports.version_stars", span, VersionStars, f"the stars of {span.model[:60]!r}"
    )


def _answer(span: Span) -> VersionStars:
    database = open_database(span.settings)
    try:
        with database.reading() as session:
            return VersionStars(f"{span.first_day(span.days)}", stars_by_version(session, span.period()))
    finally:
        database.close()


if __name__ == "__main__":
    answer_apart(Span, _answer)
