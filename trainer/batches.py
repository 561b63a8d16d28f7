"""Order of the examples in an epoch: batches of like lengths, so that little of the work is padding."""

from __future__ import annotations

import random
from collections.abc import Sequence

_POOL = 32
"""Batches that are sorted by length together: long enough to group well, short enough to stay random."""


def length_grouped(lengths: Sequence[int], batch: int, rng: random.Random) -> list[list[int]]:
    """Every index once, in batches of at most `batch` of like lengths, the batches in random order."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    pools = [order[start : start + batch * _POOL] for start in range(0, len(order), batch * _POOL)]
    batches = [
        pool[start : start + batch]
        for pool in (sorted(pool, key=lambda index: lengths[index]) for pool in pools)
        for start in range(0, len(pool), batch)
    ]
    rng.shuffle(batches)
    return batches


def fitting(batch: Sequence[int], lengths: Sequence[int], room: int) -> list[list[int]]:
    """A batch cut into parts whose padded size stays within `room` tokens; a longer example goes alone."""
    parts: list[list[int]] = []
    longest = 0
    for index in sorted(batch, key=lambda index: lengths[index]):
        longest = max(longest, lengths[index])
        if parts and (len(parts[-1]) + 1) * longest <= room:
            parts[-1].append(index)
        else:
            parts.append([index])
            longest = lengths[index]
    return parts
