"""What `learning_rate = 0` and `epochs = 0` mean: choices by the base's size, and the rate over a run."""

from __future__ import annotations

import math

from feedback.checks.cost import chosen_epochs
from feedback.datasets.methods import Method

__all__ = ["chosen_epochs", "chosen_rate", "rate_at"]

_LARGE, _LARGE_RATE = 1e9, 2e-4
_TINY, _TINY_RATE = 2e6, 3e-3
_WARM_UP = 0.06
_LEAST = 0.05
"""Share of the peak rate at the last step."""


_PREFERENCE = 1 / 40
"""Preferences are trained at a rate of 5e-6 where right answers are at 2e-4."""


def chosen_rate(parameters: int, method: Method = "sft") -> float:
    """Peak learning rate of LoRA for a base of that many parameters.

    2e-4 for billions of parameters (about ten times full fine-tuning's), rising by a power of the size to what was
    measured best on the starter model.
    """
    power: float = math.log(_TINY_RATE / _LARGE_RATE) / math.log(_LARGE / _TINY)
    rate: float = _LARGE_RATE * (_LARGE / max(parameters, 1)) ** power
    supervised = min(_TINY_RATE, max(_LARGE_RATE, rate))
    return supervised if method == "sft" else supervised * _PREFERENCE


def rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth; `step` counts from 0."""
    warm_up = max(1, round(steps * _WARM_UP))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (_LEAST + (1 - _LEAST) * (1 + math.cos(math.pi * done)) / 2)
