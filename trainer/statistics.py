"""The gate's statistics for two systems judged on the same cases, as plain functions of counts and numbers.

`fixes` are the cases that only the challenger passed, `regressions` those that only the champion passed; a
difference is challenger minus champion. What a case is, and what follows from a bound, this module does not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from scipy.special import bdtr, stdtrit

from feedback.paired import ALPHA, tango_score

POWER = 0.80
_RESAMPLES = 10_000


def mcnemar_exact(fixes: int, regressions: int) -> float:
    """Two-sided exact p-value that fixes and regressions are equally likely (McNemar 1947, binomial form)."""
    discordant = fixes + regressions
    return min(1.0, 2 * float(bdtr(min(fixes, regressions), discordant, 0.5)))


def bootstrap_interval(
    differences: Sequence[float], seed: int, alpha: float = ALPHA, resamples: int = _RESAMPLES
) -> tuple[float, float]:
    """Interval for the mean of paired score differences: bootstrap percentiles, expanded for small numbers.

    Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; the expansion, which gives the interval
    the width that Student's t would, is Hesterberg's, "What teachers should know about the bootstrap", The
    American Statistician 69 (2015) 371–386.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    quantile = stdtrit(count - 1, alpha / 2) * math.sqrt(count / (count - 1))
    tail = NormalDist().cdf(float(quantile))
    means = _resampled(values[:, None], seed, resamples)[:, 0]
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(columns: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Column means of `resamples` draws of rows with replacement, a block at a time to bound memory."""
    generator = np.random.default_rng(seed)
    count = len(columns)
    block = max(1, 2_000_000 // count)
    means = []
    for start in range(0, resamples, block):
        drawn = generator.integers(0, count, size=(min(block, resamples - start), count))
        means.append(columns[drawn].mean(axis=1))
    return np.concatenate(means)


def median_ratio(
    numerators: Sequence[float], denominators: Sequence[float], seed: int, alpha: float = ALPHA
) -> tuple[float, tuple[float, float]]:
    """Ratio of two medians of positive paired measurements, with its percentile bootstrap interval over the pairs."""
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(above), size=(2_000, len(above)))
    ratios = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
    low, high = np.quantile(ratios, [alpha / 2, 1 - alpha / 2])
    return float(np.median(above) / np.median(below)), (float(low), float(high))


def cases_for_superiority(
    difference: float, discordance: float, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Cases at which McNemar's test shows a true `difference` with that power, at that share of discordant cases.

    Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43
    (1987) 207–211.
    """
    normal = NormalDist()
    spread = math.sqrt(max(discordance - difference * difference, 0.0))
    root = normal.inv_cdf(1 - alpha / 2) * math.sqrt(discordance) + normal.inv_cdf(power) * spread
    return math.ceil((root / difference) ** 2)


def cases_for_bound(fixes: int, regressions: int, cases: int, bound: float, alpha: float = ALPHA) -> float:
    """Cases at which Tango's interval leaves `bound` out, if the shares seen stay as they are; infinite where they lie on it.

    With counts grown `k` times the score statistic grows by the root of `k`.
    """
    score = tango_score(fixes, regressions, cases, bound)
    z = NormalDist().inv_cdf(1 - alpha / 2)
    return cases * (z / score) ** 2 if score else math.inf


def cases_for_non_inferiority(
    margin: float,
    discordance: float,
    difference: float = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int:
    """Cases at which a true `difference` is shown to lie above −`margin` with that power.

    Liu, Hsueh, Hsieh & Chen, "Tests for equivalence or non-inferiority for paired binary data", Statistics in Medicine
    21 (2002) 231–245. Never fewer than Tango's interval needs when not one case differs. For a true difference below −`margin`:
    at which it is shown to lie there.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha / 2)
    spread = max(discordance - difference * difference, 0.0)
    asymptotic = (z + normal.inv_cdf(power)) ** 2 * spread / (difference + margin) ** 2
    least = z * z * (1 - margin) / margin if difference > -margin else 1.0
    return math.ceil(max(asymptotic, least))
