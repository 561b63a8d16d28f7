"""Which words and short phrases stand in which prompts, as a sparse matrix. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

LONGEST = 3
"""Words of the longest phrase."""
_READ = 2000
"""Characters of a prompt that are looked at: what it is about is said by then."""
_WORD = re.compile(r"\w+(?:['’]\w+)?", re.UNICODE)


class Terms(NamedTuple):
    """Prompts by terms: 1 where the term stands in the prompt."""

    names: list[str]
    matrix: Any
    """`scipy.sparse.csr_array` of 0 and 1, prompts in rows."""


def terms_of(prompts: Sequence[str], least: int = 1, longest: int = LONGEST) -> Terms:
    """Words and phrases that stand in at least `least` prompts; letter case does not count."""
    numbers: dict[str, int] = {}
    columns: list[int] = []
    ends = [0]
    for prompt in prompts:
        columns += sorted({numbers.setdefault(term, len(numbers)) for term in _terms(prompt, longest)})
        ends.append(len(columns))
    shape = (len(prompts), len(numbers))
    ones = np.ones(len(columns), dtype=np.int32)
    matrix = sparse.csr_array((ones, np.asarray(columns, dtype=np.int32), np.asarray(ends)), shape=shape)
    kept = np.flatnonzero(matrix.sum(axis=0) >= least)
    names = list(numbers)
    return Terms([names[place] for place in kept], matrix[:, kept])


def weighed(terms: Terms) -> Any:
    """Rows of length 1 in which rare words weigh more: ln(1 + n / texts with the word)."""
    matrix = terms.matrix.astype(np.float64)
    counts = np.asarray(matrix.sum(axis=0)).ravel()
    weights = np.log1p(matrix.shape[0] / np.maximum(counts, 1))
    weighed = matrix.multiply(weights).tocsr()
    lengths = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
    weighed.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(weighed.indptr))
    return weighed


def _terms(prompt: str, longest: int) -> Iterator[str]:
    words = _WORD.findall(prompt[:_READ].casefold())
    for length in range(1, longest + 1):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])
