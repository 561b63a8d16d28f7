"""Groups of texts that are alike, for a person to read: TF-IDF and k-means on the sphere. Pure.

They order a long list by topic and prove nothing: as a detector of failing topics, groups found seven in a hundred.
A few dozen lines here, as scikit-learn would bring 60 MB for this one use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feedback.analysis.terms import terms_of, weighed

_ROUNDS = 30
_NAMED_BY = 4
_STARTS = 4


class Cluster(NamedTuple):
    """Texts that are alike."""

    words: list[str]
    """Those that weigh most."""
    members: list[int]
    """Places of the texts, the most typical first."""


def clusters_of(texts: Sequence[str], count: int, seed: int = 0) -> list[Cluster]:
    """At most `count` groups, the largest first; texts without a word that another has are in none."""
    terms = terms_of(texts, 2, longest=1)
    vectors = weighed(terms)
    told = np.flatnonzero(np.diff(vectors.indptr))
    if not len(told):
        return []
    vectors = vectors[told]
    rng = np.random.default_rng(seed)
    centres, nearest, likeness = max(
        (_k_means(vectors, min(count, len(told)), rng) for _ in range(_STARTS)),
        key=lambda found: float(found[2].sum()),
    )
    clusters = []
    for number, centre in enumerate(centres):
        inside = np.flatnonzero(nearest == number)
        if len(inside):
            heaviest = np.argsort(-centre, kind="stable")[:_NAMED_BY]
            words = [terms.names[place] for place in heaviest if centre[place] > 0]
            typical = inside[np.argsort(-likeness[inside], kind="stable")]
            clusters.append(Cluster(words, [int(told[place]) for place in typical]))
    return sorted(clusters, key=lambda cluster: -len(cluster.members))


def _k_means(
    vectors: Any, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
    """Centres, each row's centre and its likeness (cosine) to it. Starts are spread out as k-means++ does."""
    centres = vectors[[int(rng.integers(vectors.shape[0]))]].toarray()
    while len(centres) < count:
        far = np.clip(1 - (vectors @ centres.T).max(axis=1), 0, None)
        if far.sum() <= 1e-9:
            break
        centres = np.vstack([centres, vectors[[int(rng.choice(len(far), p=far / far.sum()))]].toarray()])
    nearest = np.full(vectors.shape[0], -1)
    likeness = np.zeros(vectors.shape[0])
    for _ in range(_ROUNDS):
        similar = vectors @ centres.T
        now = similar.argmax(axis=1)
        likeness = similar[np.arange(len(now)), now]
        if (now == nearest).all():
            break
        nearest = now
        for number in range(len(centres)):
            inside = np.flatnonzero(nearest == number)
            if len(inside):
                sums = np.asarray(vectors[inside].sum(axis=0)).ravel()
                centres[number] = sums / (np.linalg.norm(sums) or 1.0)
    return centres, nearest, likeness
