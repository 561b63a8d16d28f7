"""Trainings that get no further in the hours that they have: noticed when the window closes, told, and counted.

Where engines sleep for it a training ends with its window and goes on from its newest checkpoint in the next. One that comes to
no new checkpoint in a window comes to none in the next either, and would be begun again night after night.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path

import msgspec
from msgspec import Struct

from feedback.settings import Training
from feedback.window import Window
from trainer.checkpoints import reached
from trainer.preflight import Preflight
from trainer.turns import WindowClosedError

NIGHTS = "nights.json"
"""File in a training's folder, from a window in vain to one that brought it further."""
_log = logging.getLogger(__name__)


class Vain(Struct, frozen=True):
    """Windows in a row that brought a training no further."""

    nights: int
    step: int
    """Of the newest checkpoint; 0 without one."""
    seconds: float
    """That it had in the last of them."""

    def told(self, training: Training) -> str:
        """In one sentence, with what to do."""
        where = f"its checkpoint at step {self.step}" if self.step else "its first checkpoint"
        no_further = f"no further than {where}" if self.step else f"not as far as {where}"
        again = f", the {self.nights}th window in a row" if self.nights > 3 else ""
        again = {2: ", twice in a row", 3: ", three times in a row"}.get(self.nights, again)
        return (
            f"it came {no_further} in the {_duration(self.seconds)} that it had{again}: ending the engines, loading and the way "
            f"to the next checkpoint take longer. Widen [training] window ({training.window}), or lower [training] "
            f"checkpoint_seconds ({training.checkpoint_seconds:g}) or batch ({training.batch})"
        )


@contextmanager
def counted(folder: Path, training: Training) -> Iterator[None]:
    """Run a training that its window may end; a `WindowClosedError` then says too when it came no further."""
    began, stood = time.monotonic(), reached(folder)
    try:
        yield
    except WindowClosedError as error:
        if reached(folder) != stood:  # lower is further too: it went back to its best weights
            (folder / NIGHTS).unlink(missing_ok=True)
            raise
        before = vain(folder)
        found = Vain(1 if before is None else before.nights + 1, stood, time.monotonic() - began)
        with suppress(OSError):  # then it is told, and not counted
            folder.mkdir(parents=True, exist_ok=True)
            (folder / NIGHTS).write_bytes(msgspec.json.encode(found))
        _log.warning("the training in %s: %s", folder, found.told(training))
        raise WindowClosedError(f"{error}; {found.told(training)}") from None
    (folder / NIGHTS).unlink(missing_ok=True)


def vain(folder: Path) -> Vain | None:
    """What is noted of a training's folder; None where its last window brought it further."""
    try:
        return msgspec.json.decode((folder / NIGHTS).read_bytes(), type=Vain)
    except (OSError, msgspec.MsgspecError):
        return None


def too_short(wanted: Preflight, training: Training) -> str | None:
    """A warning where the window ends a training before it can have come to a checkpoint, by the estimate of it."""
    window = Window.parse(training.window)
    if window is None or not training.engine_asleep:  # else one that has begun goes on
        return None
    steps = max(1, ceil(wanted.rows / training.batch) * wanted.epochs)
    a_step = max(0.0, wanted.seconds - wanted.beside) / steps
    needed = min(wanted.seconds, wanted.beside + max(training.checkpoint_seconds, a_step))
    if needed <= window.seconds:
        return None
    return (
        f"starting and the way to a checkpoint take about {_duration(needed)}, and [training] window ({window}) has "
        f"{_duration(window.seconds)}: no window would bring it further. Widen that, or lower [training] checkpoint_seconds "
        f"({training.checkpoint_seconds:g}) or batch ({training.batch})"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
