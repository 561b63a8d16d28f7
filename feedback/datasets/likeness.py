"""Which texts are alike: MinHash over 4-character pieces finds candidates, exact Jaccard similarity decides.

Texts made from one template share most of their pieces, and thousands of them would be candidates of each other. So a bucket
holds its earliest members only, and signatures are compared before pieces are: looking one text up takes milliseconds at
worst, whatever there is. What that can cost is a pair barely as like as the threshold, in a crowd of texts nearly so.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, pairwise
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
_MORE = 16
"""Where there are many, that part of them: in a dictionary they take twenty times the memory."""
_STRETCHES = 16
"""Ranges of buckets that are sorted one after the other, so that sorting takes little memory besides."""
_COMPARED = 32
"""Candidates that are compared piece by piece whatever their signatures say."""
_DOUBT = 0.11
"""Three standard deviations of a likeness of 0.8 that is estimated from 120 hashes."""
# Odd, so that a piece's characters mix into 64 bits without losing any of them.
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)

Pieces = NDArray[np.uint32]
"""The set of a text's pieces, each as a 32-bit hash, sorted."""


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
        # Half of each hash: enough to estimate by.
        self._signatures = np.empty((1024, _SIGNATURE), dtype=np.uint16)
        # All texts' pieces one after the other, and where each text's end: an array of its own takes 100 bytes more.
        self._pieces = np.empty(65_536, dtype=np.uint32)
        self._ends = array("Q", [0])

    def add(self, pieces: Pieces, signature: NDArray[np.uint32]) -> None:
        """Add the next text."""
        number = len(self._ends) - 1
        start, end = self._ends[-1], self._ends[-1] + len(pieces)
        # Resized in place, where a longer copy would stand beside the old array for a while.
        if number == len(self._signatures):
            self._signatures.resize((number + number // 4, _SIGNATURE), refcheck=False)
        if end > len(self._pieces):
            self._pieces.resize(end + end // 4, refcheck=False)
        self._signatures[number] = signature
        self._pieces[start:end] = pieces
        self._ends.append(end)
        for key in _buckets(signature).tolist():
            bucket = self._fresh[key]
            if len(bucket) < _BUCKET:
                bucket.append(number)
        if number - self._settled >= max(_SETTLES, self._settled // _MORE):
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
        self._fresh.clear()
        order = np.argsort(keys, kind="stable")  # within a bucket they stay in the order in which they came
        keys, members = keys[order], members[order]
        edges = np.arange(1, _STRETCHES, dtype=np.uint64) * np.uint64(2**64 // _STRETCHES)
        old = [0, *np.searchsorted(self._keys, edges).tolist(), len(self._keys)]
        new = [0, *np.searchsorted(keys, edges).tolist(), len(keys)]
        parts = [
            self._merged(slice(*ours), keys[slice(*theirs)], members[slice(*theirs)])
            for ours, theirs in zip(pairwise(old), pairwise(new), strict=True)
        ]
        self._keys = np.concatenate([part[0] for part in parts])
        self._members = np.concatenate([part[2] for part in parts])
        sizes_of = np.concatenate([part[1] for part in parts])
        self._starts = np.zeros(len(sizes_of) + 1, dtype=np.uint32)
        np.cumsum(sizes_of, out=self._starts[1:], dtype=np.uint32)
        self._settled = len(self._ends) - 1

    def _merged(
        self, stretch: slice, keys: NDArray[np.uint64], members: NDArray[np.uint32]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint32]]:
        """Buckets of a stretch, their sizes and members, with those that came since among them."""
        starts = self._starts[stretch.start : stretch.stop + 1]
        keys = np.concatenate([np.repeat(self._keys[stretch], np.diff(starts)), keys])
        members = np.concatenate([self._members[starts[0] : starts[-1]], members])
        order = np.argsort(keys, kind="stable")
        keys, members = keys[order], members[order]
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        counts = np.diff(np.append(first, len(keys)))
        kept = members[np.arange(len(keys)) - np.repeat(first, counts) < _BUCKET]
        return keys[first], np.minimum(counts, _BUCKET).astype(np.uint8), kept

    def promising(self, signature: NDArray[np.uint32], threshold: float) -> list[int]:
        """Candidates, earliest first, without those whose signatures rule the threshold out."""
        found = self.candidates(signature)
        if len(found) <= _COMPARED:
            return found
        places = np.array(found)
        likely = (self._signatures[places] == signature.astype(np.uint16)).mean(axis=1) >= threshold - _DOUBT
        promising: list[int] = places[likely].tolist()
        return promising

    def likenesses(self, pieces: Pieces, numbers: Sequence[int]) -> list[float]:
        """Jaccard similarities of a text to some that were added."""
        others = [self._pieces[self._ends[number] : self._ends[number + 1]] for number in numbers]
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
        made.update_batch(pieces.tolist())
        signed: NDArray[np.uint32] = made.hashvalues.astype(np.uint32)
        return signed


def pieces_of(text: str) -> Pieces:
    """The set of a text's 4-character pieces, each as a 32-bit hash, sorted."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < _PIECE:
        codes = np.pad(codes, (0, _PIECE - len(codes)))
    count = len(codes) - _PIECE + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(_PIECE):
        mixed = (mixed ^ codes[place : place + count]) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _buckets(signature: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The buckets that a text belongs to, one of each band, as 64-bit hashes."""
    bands = signature.reshape(_BANDS, _ROWS).astype(np.uint64)
    mixed = np.arange(1, _BANDS + 1, dtype=np.uint64)
    for row in range(_ROWS):
        mixed = (mixed ^ bands[:, row]) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed
