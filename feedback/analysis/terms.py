"""Which words and short phrases stand in which prompts, as a sparse matrix. Pure.

A phrase stands in as many prompts as its rarest part at most. So phrases are made longer word by word, from those alone that
stand in enough prompts: of long prompts nearly every three words in a row are unlike all others, and none of these is kept
for a moment.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

LONGEST = 3
"""Words of the longest phrase."""
_READ = 2000
"""Characters of a prompt that are looked at: what it is about is said by then."""
_WORD = re.compile(r"\w+(?:['’]\w+)?", re.UNICODE)
_AT_ONCE = 1 << 20
"""Places that are sorted together, about; bounds the memory that sorting takes."""

Places = NDArray[np.int32]


class Terms(NamedTuple):
    """Prompts by terms: 1 where the term stands in the prompt."""

    names: list[str]
    matrix: Any
    """`scipy.sparse.csc_array` of 0 and 1, prompts in rows."""


class _Words(NamedTuple):
    """All prompts' words in a row, one prompt after the other."""

    names: list[str]
    numbers: Places
    """Of each word in `names`."""
    prompts: Places
    """Which prompt each stands in."""


class _Found(NamedTuple):
    """Phrases that stand in enough prompts."""

    firsts: Places
    """Where in the row of all words each stands first."""
    counts: Places
    """In how many prompts each stands."""
    prompts: Places
    """Which these are, one phrase's after the other's."""


class _Level(NamedTuple):
    """Those of one number of words."""

    found: _Found
    codes: NDArray[np.integer[Any]]
    starting: Places
    """The number of the phrase that begins at each place of the row of all words; -1 for none."""


def terms_of(prompts: Sequence[str], least: int = 1, longest: int = LONGEST) -> Terms:
    """Words and phrases that stand in at least `least` prompts, in the order in which they first do; letter case does not count."""
    words = _words(prompts)
    level = _counted(words, words.numbers, lambda places: words.numbers[places], least)
    named = [words.names[code] for code in level.codes]
    names, found, lengths = list(named), [level.found], [1] * len(named)
    for length in range(1, longest):
        level = _lengthened(words, level, length, least)
        parts = zip(*divmod(level.codes, len(words.names) or 1), strict=True)
        named = [f"{named[phrase]} {words.names[word]}" for phrase, word in parts]
        names += named
        found.append(level.found)
        lengths += [length + 1] * len(named)
    firsts, counts, rows = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((firsts, lengths, words.prompts[firsts]))
    ends = np.append(0, np.cumsum(counts, dtype=np.int64))
    ones = np.ones(len(rows), dtype=np.int8)
    matrix = sparse.csc_array((ones, rows, ends), shape=(len(prompts), len(names)))
    return Terms([names[place] for place in order], matrix[:, order])


def weighed(terms: Terms) -> Any:
    """Rows of length 1 in which rare words weigh more: ln(1 + n / texts with the word)."""
    matrix = terms.matrix.astype(np.float64).tocsr()
    counts = np.asarray(matrix.sum(axis=0)).ravel()
    weights = np.log1p(matrix.shape[0] / np.maximum(counts, 1))
    weighed = matrix.multiply(weights).tocsr()
    lengths = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
    weighed.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(weighed.indptr))
    return weighed


def _words(prompts: Sequence[str]) -> _Words:
    numbers: dict[str, int] = defaultdict(count().__next__)
    told, lengths = array("i"), []
    for prompt in prompts:
        words = _WORD.findall(prompt[:_READ].casefold())
        told.extend(map(numbers.__getitem__, words))
        lengths.append(len(words))
    places = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return _Words(list(numbers), np.frombuffer(told, dtype=np.int32), places)


def _lengthened(words: _Words, phrases: _Level, length: int, least: int) -> _Level:
    """Phrases of one word more than `phrases`, which have `length`. A code is the number of the phrase before the last word,
    times the number of all words, plus the last word's."""
    begun = phrases.starting
    parts = np.full(len(begun), -1, dtype=np.int32)
    joined = (begun[:-1] >= 0) & (begun[1:] >= 0) & (words.prompts[:-1] == words.prompts[1:])
    np.copyto(parts[:-1], begun[:-1], where=joined)

    def coded(places: Places) -> NDArray[np.int64]:
        return begun[places].astype(np.int64) * len(words.names) + words.numbers[places + length]

    return _counted(words, parts, coded, least)


def _counted(
    words: _Words, parts: Places, coded: Callable[[Places], NDArray[np.integer[Any]]], least: int
) -> _Level:
    """The phrases that stand in enough prompts. `parts` are by place, -1 where none begins; the same code has the same part."""
    starting = np.full(len(parts), -1, dtype=np.int32)
    none = np.zeros(0, dtype=np.int32)
    pieces: list[tuple[NDArray[Any], ...]] = [(none, none, none, none)]
    number = 0
    for places in _together(parts):
        codes = coded(places)
        order = np.argsort(codes, kind="stable")
        codes, places = codes[order], places[order]
        prompts = words.prompts[places]
        begins = np.append(True, codes[1:] != codes[:-1])
        fresh = begins | np.append(True, prompts[1:] != prompts[:-1])
        heads = np.flatnonzero(begins)
        counts = np.add.reduceat(fresh, heads, dtype=np.int32)
        enough = counts >= least
        kept = np.repeat(enough, np.diff(np.append(heads, len(codes))))
        starting[places[kept]] = (number - 1 + np.cumsum(begins & kept))[kept]
        heads = heads[enough]
        number += len(heads)
        pieces.append((places[heads], counts[enough], prompts[fresh & kept], codes[heads]))
    *found, codes = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return _Level(_Found(*found), codes, starting)


def _together(parts: Places) -> Iterator[Places]:
    """Places where a phrase begins, some at a time: those of the same part all at once."""
    some = 1 + len(parts) // _AT_ONCE
    for part in range(some):
        places = np.flatnonzero((parts >= 0) & (parts % some == part)).astype(np.int32)
        if len(places):
            yield places
