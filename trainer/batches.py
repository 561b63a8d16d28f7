"""Order of the examples in an epoch: batches of like lengths, so that little of the work is padding."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from typing import overload

_POOL = 32
"""Batches that are sorted by length together: long enough to group well, short enough to stay random."""


class Batches(Sequence[Sequence[int]]):
    """Every index once, in batches of at most `batch` of like lengths, the batches in random order. Four bytes an index."""

    def __init__(self, lengths: Sequence[int], batch: int, rng: random.Random) -> None:
        self._order = array("I", range(len(lengths)))
        rng.shuffle(self._order)
        for start in range(0, len(lengths), batch * _POOL):
            pool = sorted(self._order[start : start + batch * _POOL], key=lengths.__getitem__)
            self._order[start : start + batch * _POOL] = array("I", pool)
        self._batch = batch
        self._starts = array("I", range(0, len(lengths), batch))
        rng.shuffle(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        start = self._starts[index]
        return self._order[start : start + self._batch].tolist()


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


class Order:
    """Which examples a step takes. It follows from the seed alone, so a step's number is the whole position in the data."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.per_epoch = math.ceil(len(lengths) / batch)
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._random = random.Random(seed)
        self._epoch = 0
        self._batches: Sequence[Sequence[int]] = ()

    def at(self, step: int) -> tuple[int, list[int]]:
        """The epoch, from 1, and the examples of a step, from 0. Any step may be asked for, in any order."""
        epoch = step // self.per_epoch + 1
        if epoch < self._epoch:
            self._random, self._epoch = random.Random(self._seed), 0
        while self._epoch < epoch:
            self._batches = ()  # not two epochs' at a time
            self._batches = Batches(self._lengths, self._batch, self._random)
            self._epoch += 1
        return epoch, list(self._batches[step % self.per_epoch])
