"""Tells whether the machine's clock was set, or stood still while the machine slept."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

SET_SECONDS = 60.0
"""From which on a clock was set: less is what a time server corrects."""


class ClockWatch:
    """Compares a clock with one that measures what passes and is never set."""

    def __init__(self, clock: Callable[[], datetime], now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds."""
        self._clock = clock
        self._now = now
        self._before: float | None = None
        self._ahead = 0.0

    def moved(self) -> float:
        """By how many seconds the clock was set since it was last `noted`; 0 where it was not, or is looked at first."""
        self._ahead = self._clock().timestamp() - self._now()
        moved = 0.0 if self._before is None else self._ahead - self._before
        return moved if abs(moved) >= SET_SECONDS else 0.0

    def noted(self) -> None:
        """What `moved` told last is dealt with."""
        self._before = self._ahead

    def forget(self) -> None:
        """Begin anew: what is set from now until the next look concerns another."""
        self._before = None
