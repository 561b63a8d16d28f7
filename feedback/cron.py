"""When cycles start by themselves: five fields of cron, in UTC.

Settings are checked with it, so APScheduler is loaded only where there is an expression to look at.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apscheduler.triggers.base import BaseTrigger

_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
"""Any moment would do: the calendar repeats itself."""
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


def cron_trigger(expression: str) -> BaseTrigger:
    """A trigger for five cron fields in UTC. Raises `ValueError` for anything else, and for what never comes (30 February).

    Weekdays are spelled out first: cron's 0 and 7 are Sunday where APScheduler 3 counts from Monday. And where both day and weekday
    are named, cron takes what either of them names, APScheduler what both do.
    """
    from apscheduler.triggers.combining import OrTrigger
    from apscheduler.triggers.cron import CronTrigger

    fields = expression.split()
    either = len(fields) == 5 and not any(field.startswith("*") for field in (fields[2], fields[4]))
    try:
        if len(fields) == 5:
            fields[4] = ",".join(_weekdays(item) for item in fields[4].lower().split(","))
        ways = [[*fields[:4], "*"], [*fields[:2], "*", *fields[3:]]] if either else [fields]
        triggers = [CronTrigger.from_crontab(" ".join(way), timezone="UTC") for way in ways]
        trigger = triggers[0] if len(triggers) == 1 else OrTrigger(triggers)
        if trigger.get_next_fire_time(None, _BEGIN) is None:
            raise ValueError("no month of the calendar has such a day, so it never comes")
        return trigger
    except ValueError as error:
        raise ValueError(
            f"{expression!r} is no schedule ({error}); write minute, hour, day, month and weekday, "
            'such as "0 3 * * *", or leave it empty'
        ) from None


def _weekdays(item: str) -> str:
    """One item of the weekday field (`*`, `1-5`, `*/2`, `sun`) as names."""
    if item == "*":
        return item
    days, _, step = item.partition("/")
    first, dash, last = ("0", "-", "6") if days == "*" else days.partition("-")
    start = _day(first)
    end = _day(last) if dash else (6 if step else start)
    if end < start or (step and not int(step)):
        raise ValueError(f"{item!r} names no weekdays")
    return ",".join(_DAYS[day] for day in range(start, end + 1, int(step or 1)))


def _day(day: str) -> int:
    if day in _DAYS:
        return _DAYS.index(day)
    if day.isdigit() and int(day) < len(_DAYS):
        return int(day)
    raise ValueError(f"{day!r} is no weekday")
