"""A linear SVM over TF-IDF: the baseline of text classification, and a stand-in for training that takes seconds.

Words and pairs of words, sublinear counts, unit length; one label against the rest with squared hinge loss, minimised by
L-BFGS. A few dozen lines here, as scikit-learn would bring 60 MB for benchmarks alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

_WORD = re.compile(r"\w+")
_COST = 1.0
_MOST_ROUNDS = 60

Vector = NDArray[np.float64]


class LinearSvm:
    """Fitted at once; `predict` names a label for each text."""

    def __init__(
        self, texts: Sequence[str], labels: Sequence[str], weights: Sequence[float] | None = None
    ) -> None:
        """`weights` are factors of the rows' losses; 1 where they are not given."""
        counted = [_terms(text) for text in texts]
        frequency = Counter(term for terms in counted for term in terms)
        # What stands in one text alone tells nothing about others, and is most of all terms.
        kept = sorted(term for term, count in frequency.items() if count > 1)
        self._columns = {term: column for column, term in enumerate(kept)}
        found = [frequency[term] for term in self._columns]
        self._rarity = np.log((1 + len(texts)) / (1 + np.array(found, dtype=np.float64))) + 1
        self._labels = sorted(set(labels))
        rows = self._matrix(counted)
        signs = np.where(np.array(labels)[:, None] == np.array(self._labels)[None, :], 1.0, -1.0)
        costs = (
            _COST * np.ones(len(texts)) if weights is None else _COST * np.array(weights, dtype=np.float64)
        )
        shape = (rows.shape[1], len(self._labels))

        def loss(flat: Vector) -> tuple[float, Vector]:
            plane = flat.reshape(shape)
            short = np.maximum(0.0, 1 - signs * (rows @ plane))
            gradient = plane - rows.T @ (2 * costs[:, None] * signs * short)
            return 0.5 * float(flat @ flat) + float((costs[:, None] * short**2).sum()), gradient.ravel()

        start = np.zeros(shape[0] * shape[1])
        solved = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MOST_ROUNDS})
        self._plane: Vector = solved.x.reshape(shape)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        scores = self._matrix([_terms(text) for text in texts]) @ self._plane
        return [self._labels[place] for place in scores.argmax(axis=1)]

    def _matrix(self, counted: Sequence[Counter[str]]) -> csr_matrix:
        """Rows of unit length, with a last column of ones for the threshold."""
        values, columns, ends = list[float](), list[int](), [0]
        for terms in counted:
            places = [(self._columns[term], count) for term, count in terms.items() if term in self._columns]
            weighed = np.array([(1 + np.log(count)) * self._rarity[place] for place, count in places])
            values += [*(weighed / (np.linalg.norm(weighed) or 1.0)).tolist(), 1.0]
            columns += [*(place for place, _ in places), len(self._columns)]
            ends.append(len(values))
        return csr_matrix((values, columns, ends), shape=(len(counted), len(self._columns) + 1))


def _terms(text: str) -> Counter[str]:
    words = _WORD.findall(text.lower())
    return Counter([*words, *(f"{one} {other}" for one, other in pairwise(words))])
