"""When a batch's request may go to the engine: some at a time while users ask nothing, else one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from server.telemetry import families
from server.telemetry.metrics import Metrics, key_of

_LOOK_SECONDS = 0.1
_KEY = key_of(families.UNDER_WAY, ())


class Turns:
    """Turns of all batches that this worker answers."""

    def __init__(self, most: int, users: Callable[[], float]) -> None:
        """`users` tells how many requests of users are under way."""
        self._most = most
        self._users = users
        self._under_way = 0
        self._looked = -_LOOK_SECONDS
        self._allowed = 1

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it for as long as the block takes."""
        while self._under_way >= self._now():
            await asyncio.sleep(_LOOK_SECONDS / 2)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _now(self) -> int:
        if monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = monotonic()
            self._allowed = self._most if self._users() < 1 else 1
        return self._allowed


def users_under_way(metrics: Metrics) -> float:
    """Requests under way at all workers of this gateway, those of batches not counted."""
    return sum(
        reading.values[_KEY][0] for reading in metrics.readings() if reading.alive and _KEY in reading.values
    )
