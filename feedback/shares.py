"""How sure an observed share is. Pure."""

from __future__ import annotations

from math import sqrt


def wilson_low(hits: int, of: int, z: float) -> float:
    """Lower end of Wilson's interval for a share (J. Am. Stat. Assoc. 22, 1927), 0..1; 0 where nothing was seen.

    `z` is the normal quantile of the interval: 1.96 for 95 %.
    """
    if not of:
        return 0.0
    share = hits / of
    square = z * z / of
    spread = z * sqrt(share * (1 - share) / of + square / (4 * of))
    return max(0.0, (share + square / 2 - spread) / (1 + square))
