"""Days as a reader counts them: from midnight to midnight in their zone, by the offsets from UTC that hold in a period."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

_NAME = re.compile("[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
_DAY = 86_400


class Offset(NamedTuple):
    """How far a zone is ahead of UTC."""

    until: float
    """Unix seconds, exclusive."""
    seconds: int


def zone_named(name: str) -> tzinfo:
    """The zone of that IANA name; UTC for one that is not known here."""
    if name == "UTC" or not _NAME.fullmatch(name):
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a folder, no zone's file, no such zone
        return UTC


def name_of(zone: tzinfo) -> str:
    return zone.key if isinstance(zone, ZoneInfo) else "UTC"


def midnight(day: date, zone: tzinfo) -> float:
    """Unix seconds at which a day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def day_of(moment: float, zone: tzinfo) -> date:
    """The day on which a moment (Unix seconds) falls."""
    return datetime.fromtimestamp(moment, zone).date()


def offsets(zone: tzinfo, since: float, until: float) -> list[Offset]:
    """The zone's offsets in a period, in order; more than one where clocks are changed in it."""
    found: list[Offset] = []
    start, seconds = since, _ahead(zone, since)
    while start < until:
        end = min(start + _DAY, until)
        changed = _ahead(zone, end)
        if changed != seconds:
            found.append(Offset(_change(zone, start, end), seconds))
        start, seconds = end, changed
    return [*found, Offset(until, seconds)]


def _change(zone: tzinfo, before: float, after: float) -> float:
    """The second from which the later offset holds."""
    low, high, first = int(before), int(after) + 1, _ahead(zone, before)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _ahead(zone, middle) == first else (low, middle)
    return float(high)


def _ahead(zone: tzinfo, moment: float) -> int:
    offset = datetime.fromtimestamp(moment, zone).utcoffset() or timedelta()
    return int(offset.total_seconds())
