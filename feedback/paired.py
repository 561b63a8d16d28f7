"""How far two systems differ that were judged on the same cases: an interval from the counts alone. Pure.

`fixes` are the cases that only the second passed, `regressions` those that only the first passed; a difference is second
minus first. The gate decides by it and the pages show it; what else the gate needs stands in `trainer/statistics.py`.
"""

from __future__ import annotations

import math
from statistics import NormalDist

ALPHA = 0.05
"""Two-sided; each bound is one-sided at half of it."""
_HALVINGS = 60


def tango_interval(fixes: int, regressions: int, cases: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Score interval for a difference of paired proportions, in -1..1.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998) 891–908. The bounds are the differences at which the score statistic
    equals ∓z; it falls steadily in between, so they are found by halving. No case at all says nothing: (-1, 1).
    """
    if cases == 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf(1 - alpha / 2)
    lower = _crossing(fixes, regressions, cases, z)
    upper = -_crossing(regressions, fixes, cases, z)
    return lower, upper


def _crossing(gained: int, lost: int, cases: int, z: float) -> float:
    """The difference below the observed one at which the score statistic equals `z`."""
    low, high = -1.0, (gained - lost) / cases
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if tango_score(gained, lost, cases, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def tango_score(fixes: float, regressions: float, cases: float, difference: float) -> float:
    """Tango's statistic for the hypothesis that the true difference is `difference`; about standard normal.

    At 0 it is McNemar's (b − c) / √(b + c).
    """
    linear = (2 * cases - fixes + regressions) * difference - fixes - regressions
    constant = -regressions * difference * (1 - difference)
    # Likeliest share of regressions if `difference` were true: the larger root of 2n·q² + linear·q + constant.
    regressed = (math.sqrt(max(linear * linear - 8 * cases * constant, 0.0)) - linear) / (4 * cases)
    variance = cases * (2 * regressed + difference * (1 - difference))
    distance = fixes - regressions - cases * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)
