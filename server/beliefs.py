"""How far raters are believed, as this worker last heard: found beside it, so that no page waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from feedback.datasets.believed import Asked, Belief, belief_apart
from feedback.errors import StarloopError
from feedback.settings import Settings

_log = logging.getLogger(__name__)
KEPT_SECONDS = 600.0
"""After so long it is found anew, when somebody asks."""


class Beliefs:
    """One worker's view. Until the first answer of a model has come, all raters are believed alike."""

    def __init__(
        self, settings: Settings, now: Callable[[], datetime], weigh: Callable[[Asked], Belief] = belief_apart
    ) -> None:
        self._settings = settings
        self._now = now
        self._weigh = weigh
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Belief]] = {}
        self._asked: dict[str, threading.Thread] = {}

    def of(self, model: str) -> Belief:
        """What is known of a model's raters; if that is old, finding it begins."""
        moment = self._now().timestamp()
        with self._lock:
            known = self._known.get(model)
            if (known is None or moment - known[0] >= KEPT_SECONDS) and model not in self._asked:
                thread = threading.Thread(target=self._find, args=(model,), daemon=True)
                self._asked[model] = thread
                thread.start()
        return known[1] if known else Belief()

    def _find(self, model: str) -> None:
        now = self._now()
        try:
            found = self._weigh(Asked(self._settings, model, now))
        except StarloopError as error:
            _log.warning("the review queue goes by what is known of raters: %s", error)
            found = self._known.get(model, (0.0, Belief()))[1]
        with self._lock:
            self._known[model] = now.timestamp(), found
            del self._asked[model]
