"""Work that is tried again after a pause, while something that it needs is away."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence

from feedback.errors import UnavailableError

_log = logging.getLogger(__name__)
PAUSES = (2.0, 10.0, 30.0, 60.0)
"""Seconds to wait before each new attempt."""


def attempt(
    work: Callable[[], None], pauses: Sequence[float], pause: Callable[[float], None], about: str
) -> None:
    """Do it; raises what it raises, `UnavailableError` only after the last pause. `about` opens the log's lines."""
    for seconds in pauses:
        try:
            return work()
        except UnavailableError as error:
            _log.warning("%s: %s; trying again in %.0f s", about, error, seconds)
            pause(seconds)
    return work()


def wait(seconds: float, stopping: threading.Event, check: Callable[[], None]) -> None:
    """Wait, and raise what `check` does, which is asked each second and as soon as the process is to end."""
    for _ in range(math.ceil(seconds)):
        stopping.wait(1.0)
        check()
