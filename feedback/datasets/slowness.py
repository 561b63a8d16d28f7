"""Which answers took unusually long, by the robust spread of what is usual for their version. Pure.

Times have a long tail, so they are compared as logarithms, and by median and median absolute deviation (MAD), which the
slow ones themselves hardly move. A slow answer says nothing about what was answered: it is for operators, never data.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from statistics import median
from typing import NamedTuple

# 1.4826 MADs are a standard deviation where logarithms are normal.
_PER_MAD = 1.4826
_LEAST_ANSWERS = 50
# Below it, the wait for the first token is most of the time, and the figure would tell how short an answer was.
_LEAST_TOKENS = 8
# On a machine that does nothing else all answers take the same; 10 % above that is not slow by any measure.
_LEAST_SPREAD = 0.1


class Pace(NamedTuple):
    """What is usual for one version: natural logarithms of milliseconds per output token."""

    middle: float
    spread: float
    """A standard deviation's worth."""

    def deviations(self, pace: float) -> float:
        """How many spreads a time per token is above the middle."""
        return (pace - self.middle) / self.spread

    @property
    def usual_ms(self) -> float:
        """Milliseconds per token in the middle."""
        return exp(self.middle)


def pace_of(latency_ms: float, tokens: int | None) -> float | None:
    """Logarithm of milliseconds per output token; None where there are too few tokens to tell."""
    if tokens is None or tokens < _LEAST_TOKENS or latency_ms <= 0:
        return None
    return log(latency_ms / tokens)


def usual_pace(paces: Sequence[float]) -> Pace | None:
    """Median and spread of a version's answers; None of fewer than fifty."""
    if len(paces) < _LEAST_ANSWERS:
        return None
    middle = median(paces)
    mad = median(abs(pace - middle) for pace in paces)
    return Pace(middle, max(_PER_MAD * mad, _LEAST_SPREAD))
