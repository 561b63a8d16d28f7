"""Does a failure come more often where a property holds than elsewhere: Fisher's exact test, many at a time. Pure."""

from __future__ import annotations

import math

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

    # Of a hundred thousand phrases most stand in as few prompts: the same counts are looked up once.
    pairs, places = np.unique(np.stack([with_failures, with_all]), axis=1, return_inverse=True)
    p: Shares = hypergeom.sf(pairs[0] - 1, everything, failures, pairs[1])
    return p.clip(0.0, 1.0)[places.reshape(-1)]


def more_often_in_one(with_failures: int, with_all: int, failures: int, everything: int) -> float:
    """`more_often` for one property of at most some thousand cases, exactly, without the seconds that scipy.stats takes to load.

    Terms of the tail follow from each other in whole numbers, so nothing is lost where it is tiny.
    """
    fewest = max(with_failures, with_all + failures - everything, 0)
    most = min(with_all, failures)
    if fewest > most:
        return 0.0
    term = math.comb(failures, fewest) * math.comb(everything - failures, with_all - fewest)
    tail = 0
    for found in range(fewest, most + 1):
        tail += term
        left = (failures - found) * (with_all - found)
        term = term * left // ((found + 1) * (everything - failures - with_all + found + 1))
    return tail / math.comb(everything, with_all)


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
