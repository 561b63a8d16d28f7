"""Which texts are alike: MinHash over 4-character pieces finds candidates, exact Jaccard similarity decides.

Texts made from one template share most of their pieces, and thousands of them would be candidates of each other. So a bucket
holds its earliest members only, and signatures are compared before pieces are: looking one text up takes milliseconds at
worst, whatever there is. What that can cost is a pair barely as like as the threshold, in a crowd of texts nearly so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasketch import MinHash

_PIECE = 4
# 20 bands of 6 rows: a pair at 0.8 becomes a candidate with probability 0.998, one at 0.5 with 0.27.
_BANDS, _ROWS = 20, 6
_SIGNATURE = _BANDS * _ROWS
_BUCKET = 24
"""Most members of a bucket."""
_SETTLES = 8192
"""Texts that come before they are sorted in among the rest, at least."""
_COMPARED = 32
"""Candidates that are compared piece by piece whatever their signatures say."""
_DOUBT = 0.11
"""Three standard deviations of a likeness of 0.8 that is estimated from 120 hashes."""
# Odd, so that a piece's characters mix into 64 bits without losing any of them.
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)

Pieces = NDArray[np.uint64]
"""The set of a text's pieces, each as a 64-bit hash, sorted."""


class LikenessIndex:
    """Texts by number, in the order in which they were added."""

    def __init__(self) -> None:
        from datasketch import MinHash  # brings SciPy: 55 MB that most processes never need

        self._empty: MinHash = MinHash(num_perm=_SIGNATURE, hashfunc=int)
        # The settled members of all buckets, sorted by bucket, and those that came since: a dictionary of them all takes
        # ten times the memory.
        self._keys = np.zeros(1, dtype=np.uint64)
        self._starts = np.zeros(2, dtype=np.uint32)
        self._members = np.empty(0, dtype=np.uint32)
        self._fresh: defaultdict[int, list[int]] = defaultdict(list)
        self._settled = 0
        self._signatures = np.empty((1024, _SIGNATURE), dtype=np.uint32)
        self._pieces: list[Pieces] = []

    def add(self, pieces: Pieces, signature: NDArray[np.uint32]) -> None:
        """Add the next text."""
        number = len(self._pieces)
        if number == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[number] = signature
        self._pieces.append(pieces)
        for key in _buckets(signature).tolist():
            bucket = self._fresh[key]
            if len(bucket) < _BUCKET:
                bucket.append(number)
        if number - self._settled >= max(_SETTLES, self._settled // 4):
            self._settle()

    def candidates(self, signature: NDArray[np.uint32]) -> list[int]:
        """Texts that share a band of the signature, earliest first."""
        keys = _buckets(signature)
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        starts = self._starts[places]
        sizes = np.where(self._keys[places] == keys, self._starts[places + 1] - starts, 0)
        found: set[int] = set()
        for key, start, size in zip(keys.tolist(), starts.tolist(), sizes.tolist(), strict=True):
            if size:
                found.update(self._members[start : start + size].tolist())
            if size < _BUCKET and key in self._fresh:
                found.update(self._fresh[key][: _BUCKET - size])
        return sorted(found)

    def _settle(self) -> None:
        """Sort what came since in among the rest."""
        sizes = [len(bucket) for bucket in self._fresh.values()]
        keys = np.repeat(np.fromiter(self._fresh, dtype=np.uint64, count=len(sizes)), sizes)
        members = np.fromiter(chain.from_iterable(self._fresh.values()), dtype=np.uint32, count=len(keys))
        keys = np.concatenate([np.repeat(self._keys, np.diff(self._starts)), keys])
        members = np.concatenate([self._members, members])
        order = np.argsort(keys, kind="stable")  # within a bucket they stay in the order in which they came
        keys, members = keys[order], members[order]
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        counts = np.diff(np.append(first, len(keys)))
        self._members = members[np.arange(len(keys)) - np.repeat(first, counts) < _BUCKET]
        self._keys = keys[first]
        self._starts = np.concatenate([[0], np.cumsum(np.minimum(counts, _BUCKET))]).astype(np.uint32)
        self._fresh.clear()
        self._settled = len(self._pieces)

    def promising(self, signature: NDArray[np.uint32], threshold: float) -> list[int]:
        """Candidates, earliest first, without those whose signatures rule the threshold out."""
        found = self.candidates(signature)
        if len(found) <= _COMPARED:
            return found
        places = np.array(found)
        likely = (self._signatures[places] == signature).mean(axis=1) >= threshold - _DOUBT
        promising: list[int] = places[likely].tolist()
        return promising

    def likenesses(self, pieces: Pieces, numbers: Sequence[int]) -> list[float]:
        """Jaccard similarities of a text to some that were added."""
        others = [self._pieces[number] for number in numbers]
        sizes = np.array([len(other) for other in others])
        together = np.concatenate(others)
        places = np.searchsorted(pieces, together)
        places[places == len(pieces)] = 0
        shared = np.add.reduceat(pieces[places] == together, np.cumsum(sizes) - sizes, dtype=np.int64)
        similar: list[float] = (shared / (len(pieces) + sizes - shared)).tolist()
        return similar

    def signature(self, pieces: Pieces) -> NDArray[np.uint32]:
        """A text's MinHash."""
        made = self._empty.copy()
        made.update_batch((pieces >> np.uint64(32)).tolist())
        signed: NDArray[np.uint32] = made.hashvalues.astype(np.uint32)
        return signed


def pieces_of(text: str) -> Pieces:
    """The set of a text's 4-character pieces, each as a 64-bit hash, sorted."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < _PIECE:
        codes = np.pad(codes, (0, _PIECE - len(codes)))
    count = len(codes) - _PIECE + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(_PIECE):
        mixed = (mixed ^ codes[place : place + count]) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _buckets(signature: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The buckets that a text belongs to, one of each band, as 64-bit hashes."""
    bands = signature.reshape(_BANDS, _ROWS).astype(np.uint64)
    mixed = np.arange(1, _BANDS + 1, dtype=np.uint64)
    for row in range(_ROWS):
        mixed = (mixed ^ bands[:, row]) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed
