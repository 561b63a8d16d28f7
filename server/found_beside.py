"""What takes long to find, as this worker last found it: it is found beside the worker, so that no page waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from feedback.errors import StarloopError

_log = logging.getLogger(__name__)
K = TypeVar("K")
T = TypeVar("T")
_KEYS = 64


class Found(NamedTuple, Generic[T]):
    """What was found last; `problem` says why there is nothing newer."""

    value: T | None
    when: float
    """Unix seconds at which it was begun to be found."""
    problem: str | None


class FoundBeside(Generic[K, T]):
    """One worker's findings by key. Asking for one that is old, or not there, begins to find it, and does not wait."""

    def __init__(
        self, find: Callable[[K, datetime], T], now: Callable[[], datetime], kept_seconds: float
    ) -> None:
        """`find` runs in a thread, a single one for each key; what it raises as `StarloopError` becomes the problem."""
        self._find = find
        self._now = now
        self._kept = kept_seconds
        self._lock = threading.Lock()
        self._known: dict[K, Found[T]] = {}
        self._under_way: set[K] = set()

    def get(self, key: K) -> Found[T] | None:
        """What is known; None before the first finding has ended."""
        with self._lock:
            known = self._known.get(key)
            old = known is None or self._now().timestamp() - known.when >= self._kept
            if old and key not in self._under_way and len(self._under_way) < _KEYS:
                self._under_way.add(key)
                threading.Thread(target=self._work, args=(key, known), daemon=True).start()
            return known

    def _work(self, key: K, before: Found[T] | None) -> None:
        now = self._now()
        try:
            found = Found(self._find(key, now), now.timestamp(), None)
        except StarloopError as error:
            _log.warning("%s", error)
            found = Found(before.value if before else None, now.timestamp(), str(error))
        except Exception:  # a thread's boundary: the next who asks may find it again
            _log.exception("what a page shows could not be found")
            found = Found(before.value if before else None, now.timestamp(), "the gateway's log says why")
        with self._lock:
            while len(self._known) >= _KEYS:
                del self._known[next(iter(self._known))]
            self._known[key] = found
            self._under_way.discard(key)
