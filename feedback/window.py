"""The hours in which trainings may begin, in UTC: `[training] window = "02:00-05:00"`, also over midnight."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import NamedTuple

_FORM = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_DAY = 24 * 60


class Window(NamedTuple):
    """Minutes of the day: from `begin`, up to and without `end`, which is on the next day where it is no later."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window | None:
        """The window that is written; None for "", which is any time. Raises `ValueError` for what is none."""
        if not text:
            return None
        found = _FORM.fullmatch(text)
        hours = [int(part) for part in found.groups()] if found else []
        begin, end = (hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]) if hours else (0, 0)
        if begin == end or begin >= _DAY or end > _DAY:
            raise ValueError(
                f'{text!r} is no window; write two different times of day in UTC, such as "02:00-05:00" or "22:30-04:00" '
                '("00:00-24:00" is all day), or leave it empty'
            )
        return cls(begin, end)

    def __str__(self) -> str:
        return f"{_clock(self.begin)}-{_clock(self.end)} UTC"

    @property
    def seconds(self) -> float:
        """How long it is."""
        return ((self.end - self.begin) % _DAY or _DAY) * 60.0

    def open_at(self, now: datetime) -> bool:
        """Whether a training may begin now; `now` is in UTC."""
        minute = now.hour * 60 + now.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def opens(self, now: datetime) -> datetime:
        """When it opens next."""
        return _next(self.begin, now)

    def closes(self, now: datetime) -> datetime:
        """When it closes next."""
        return _next(self.end, now)


def waits_for(window: Window, now: datetime) -> str:
    """What is told of a training that is due outside the window."""
    return f"waits for the training window ({window}, opens {window.opens(now):%d %b %H:%M}); [training] window sets it"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _next(minute: int, now: datetime) -> datetime:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    then = midnight + timedelta(minutes=minute)
    return then if then > now else then + timedelta(days=1)
