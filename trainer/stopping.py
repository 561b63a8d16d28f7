"""When a training has nothing more to gain: which check was the best so far, and whether to go on. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any

LEAST_TO_CHOOSE = 100
"""Validation examples below which their loss is shown but chooses nothing: on 10 to 30 of them the best check is
mostly luck."""
_CHANCE = 0.05
"""How often two checks of which neither is worse may seem to differ, over all pairs of checks together."""


class Watch:
    """Follows the losses of the same validation examples from check to check.

    A mean over a hundred examples wavers by itself, so only a difference *beyond chance* decides: such a check counts
    against `patience`, while of checks that chance alone may have told apart the later one is kept, as it has seen more and
    was made at a lower rate. (Measured on the starter: taking every waver at its word stopped a training in its first
    third, with 79 % right on the golden set instead of 92 %.) The lowest is also the luckiest of all checks, so the chance
    is shared among all pairs of them.
    """

    def __init__(self, patience: int) -> None:
        self.kept_loss = math.inf
        """Mean of the check whose weights are kept, in nats per answer token."""
        self.kept_step = 0
        self.worse = 0
        """Checks in a row that were worse than the lowest beyond chance."""
        self._patience = patience
        self._lowest = math.inf
        self._best: Sequence[float] = ()
        self._seen = 0

    def see(self, step: int, mean: float, losses: Sequence[float]) -> bool:
        """Take in a check; whether its weights are those to keep.

        `mean` is the loss per answer token in nats, `losses` are the examples' own sums, in the same order each time.
        """
        self._seen += 1
        choosing = len(losses) >= LEAST_TO_CHOOSE
        if choosing and self._best and worse_beyond_chance(losses, self._best, math.comb(self._seen, 2)):
            self.worse += 1
            return False
        self.kept_loss, self.kept_step, self.worse = mean, step, 0
        if mean < self._lowest:
            self._lowest, self._best = mean, losses
        return True

    def state(self) -> dict[str, Any]:
        """All that it has seen, as JSON takes it."""
        return {
            "kept_loss": self.kept_loss,
            "kept_step": self.kept_step,
            "worse": self.worse,
            "lowest": self._lowest,
            "best": list(self._best),
            "seen": self._seen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.kept_loss, self.kept_step, self.worse = state["kept_loss"], state["kept_step"], state["worse"]
        self._lowest, self._best, self._seen = state["lowest"], state["best"], state["seen"]

    @property
    def over(self) -> bool:
        """Whether patience has ended."""
        return self.worse >= self._patience


def worse_beyond_chance(losses: Sequence[float], before: Sequence[float], pairs: int = 1) -> bool:
    """Whether the paired losses rose by more than their noise explains: one-sided, 5 % shared among `pairs`.

    `before` may have been chosen as the best of several checks that make that many pairs (Bonferroni's correction).
    """
    rises = [now - then for now, then in zip(losses, before, strict=True)]
    if len(rises) < 2:
        return False
    beyond = NormalDist().inv_cdf(1 - _CHANCE / pairs)
    return fmean(rises) > beyond * stdev(rises) / math.sqrt(len(rises))
