"""A training while the engines sleep: asked of whoever runs them, waited for, and over with the training.

They wake also when it failed, when it was left, and when this process died: see `feedback.asleep`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from feedback.asleep import found_asleep, wanted_asleep
from feedback.errors import UnavailableError
from feedback.settings import Engine, Settings

_log = logging.getLogger(__name__)
_ENDING_SECONDS = 60.0
"""What ending the engines takes at most, beside what they still answer."""
_LOOK_SECONDS = 2.0
_LOOKS = 2
"""In a row, that find them asleep: they may be about to wake from the training before."""


@contextmanager
def engines_asleep(settings: Settings, what: str, pause: Callable[[float], None]) -> Iterator[None]:
    """Let the managed engines sleep for as long as the block takes, where `[training] engine_asleep` is set.

    `what` is the training, in words for those who get no answer; `pause` waits, and raises where the training is to be left.
    Comes back when they answer again, or after the time that their start may take. Raises `UnavailableError` where nobody puts
    them to sleep.
    """
    if not settings.training.engine_asleep:
        yield
        return
    directory = settings.directory
    with wanted_asleep(directory).held(
        f"while {what} trains, in the training window {settings.training.window} UTC"
    ):
        deadline = time.monotonic() + settings.server.drain_seconds + _ENDING_SECONDS
        looks = 0
        while looks < _LOOKS:
            looks = 0 if found_asleep(directory).told() is None else looks + 1
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"[training] engine_asleep is set and nobody puts the engines to sleep: none is run from {directory} on this "
                    "machine, or `starloop up` says there why it could not end them. Run `starloop up` or `starloop engine` here, or "
                    "set engine_asleep = false"
                )
            pause(1.0)
        _log.info("the engines sleep while %s trains", what)
        yield
    _wait_until_awake(settings, pause)


def _wait_until_awake(settings: Settings, pause: Callable[[float], None]) -> None:
    managed = [engine for engine in settings.engine if not engine.urls]
    deadline = time.monotonic() + max(engine.start_seconds for engine in managed)
    while not all(_answers(engine) for engine in managed):
        if time.monotonic() > deadline:
            _log.warning("the engines do not answer yet after their sleep; their logs say why")
            return
        pause(1.0)


def _answers(engine: Engine) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(engine.host, engine.host)
    try:
        return (
            httpx.get(
                f"http://{host}:{engine.port}/health", timeout=_LOOK_SECONDS, trust_env=False
            ).status_code
            == 200
        )
    except httpx.HTTPError:
        return False
