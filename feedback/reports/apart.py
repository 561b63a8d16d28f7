"""A report in a process of its own, for the gateway: finding failing kinds takes seconds of an interpreter and much memory."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from feedback.apart import answer_apart, ask_apart
from feedback.reports.document import Report
from feedback.reports.facts import gather, period_of
from feedback.settings import Settings
from feedback.storage.database import open_database


class Wanted(Struct):
    """Which report."""

    settings: Settings
    model: str
    month: str
    now: datetime


def report_apart(wanted: Wanted) -> Report:
    """As `gather`. Raises what that and `ask_apart` raise."""
    period_of(wanted.settings, wanted.model, wanted.month, wanted.now)
    return ask_apart("feedback.reports.apart", wanted, Report, f"the report on {wanted.model[:60]!r}")


def _gather(wanted: Wanted) -> Report:
    database = open_database(wanted.settings)
    try:
        with database.reading() as session:
            return gather(session, wanted.settings, wanted.model, wanted.month, wanted.now)
    finally:
        database.close()


if __name__ == "__main__":
    answer_apart(Wanted, _gather)
