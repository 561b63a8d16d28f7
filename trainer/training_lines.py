"""How far a training is, in plain lines: for logs and for outputs that no person watches."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.training import Progress

_SECONDS = 10.0


class TrainingLines:
    """Says its first step and then, at most every ten seconds, the one that it is at; at once what was noticed."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._next = 0.0
        self._last = 0
        self._told: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        if progress != self._told:
            self._told = progress
            for text in progress.noticed:
                self._say(text)
        now = self._clock()
        if progress.step == self._last or now < self._next:
            return
        self._next, self._last = now + _SECONDS, progress.step
        self._say(f"step {progress.step} of {progress.steps}, {words(progress)}")


def words(progress: Progress) -> str:
    """Epoch and loss."""
    loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
    return f"epoch {progress.epoch}/{progress.epochs}{loss}"
