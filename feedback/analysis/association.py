"""Does a failure come more often where a property holds than elsewhere: Fisher's exact test, many at a time. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


def more_often(with_failures: Counts, with_all: Counts, failures: int, everything: int) -> Shares:
    """One-sided p-values of Fisher's exact test for properties that hold for `with_all` of `everything` cases.

    `with_failures` of these are among the `failures`. Small where failures are more frequent with the property than
    without it: the chance of as many or more, were the failures dealt out blindly (hypergeometric tail).
    """
    from scipy.stats import hypergeom  # a second or more to import, which no other part of the program needs

    p: Shares = hypergeom.sf(with_failures - 1, everything, failures, with_all)
    return p.clip(0.0, 1.0)


def least_possible(with_all: Counts, failures: int, everything: int) -> Shares:
    """The smallest p-value that each property could have, with all its cases failures."""
    return more_often(np.minimum(with_all, failures), with_all, failures, everything)


def false_discovery_adjusted(p: Shares) -> Shares:
    """Benjamini and Hochberg's adjusted p-values (J. R. Stat. Soc. B 57, 1995), in the order given.

    Those at or below a level are, on average, false for no more than that share; holds for independent tests and for such
    as rise and fall together, as those of overlapping phrases do.
    """
    if not len(p):
        return p
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    found: Shares = np.empty(len(p))
    found[order] = adjusted
    return found
