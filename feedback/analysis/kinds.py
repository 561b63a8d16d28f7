"""Are certain kinds of input failing? Each phrase and each metadata slice is tested, and what says the same is joined. Pure.

Every property is tested for more failures than elsewhere (Fisher's exact test, one-sided), all together under
Benjamini and Hochberg's bound on the share of false discoveries. What passes overlaps: forty phrases of one topic pass at
once. So they are gone through from the surest share of failures down; one stays only if it still fails more often once
the prompts of those before it are set aside, and where a fifth of its prompts belong to a kind before it, it joins that one as another way to say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feedback.analysis.association import false_discovery_adjusted, least_possible, more_often
from feedback.analysis.terms import terms_of
from feedback.shares import wilson_low

LEVEL = 0.05
"""Share of false discoveries among all, on average."""
_LEAST = 5
"""Prompts that a property must hold for. Fewer could not pass beside a thousand others."""
# A phrase in more prompts than these is how people write, not what they write about.
_COMMON = 0.5
# A property that could not reach this with nothing but failures is not tested: it would only raise the bar for others.
_REACHABLE = 1e-3
# What the prompts that surer kinds leave over must still show.
_STILL = 1e-3
_JOINED = 0.2
_Z = 2.326


class Property(NamedTuple):
    """A phrase that stands in prompts, or a value that their metadata has."""

    kind: str
    """`phrase` or `metadata`."""
    name: str
    """The phrase, or `key=value`."""


@dataclass(frozen=True)
class Kind:
    """A kind of input that fails more often than the rest."""

    properties: list[Property]
    """The clearest first; the others hold for much the same prompts."""
    prompts: list[int]
    """Places of the prompts for which one of the properties holds."""
    failures: int
    share: float
    """Of its prompts that failed, 0..1."""
    elsewhere: float
    """Of all other prompts that failed."""
    p_value: float
    """Fisher's, of the first property."""
    q_value: float
    """The same adjusted for all that was tested."""


@dataclass(frozen=True)
class Kinds:
    """All kinds that were found, the surest first, and how many properties were tested."""

    found: list[Kind] = field(default_factory=list)
    tested: int = 0


def failing_kinds(
    prompts: Sequence[str],
    failed: Sequence[bool],
    metadata: Sequence[Mapping[str, str]] | None = None,
    level: float = LEVEL,
) -> Kinds:
    """The kinds of input that fail more often than the rest, of prompts with and without failures.

    `metadata` are the values to slice by, one mapping a prompt. Time and memory grow with the words of all prompts.
    """
    bad = np.asarray(failed, dtype=bool)
    failures, everything = int(bad.sum()), len(bad)
    if not 0 < failures < everything:
        return Kinds()
    names, columns = _properties(prompts, metadata or (), failures)
    if not columns:
        return Kinds()
    with_all = np.array([len(column) for column in columns])
    with_failures = np.array([int(bad[column].sum()) for column in columns])
    p = more_often(with_failures, with_all, failures, everything)
    q = false_discovery_adjusted(p)
    passed = np.flatnonzero(q <= level)
    surest = sorted(
        passed,
        key=lambda place: (
            -wilson_low(int(with_failures[place]), int(with_all[place]), _Z),
            p[place],
            names[place],
        ),
    )
    left = np.ones(everything, dtype=bool)
    kinds: list[tuple[list[int], NDArray[Any]]] = []
    for place in surest:
        column = columns[place]
        rest = column[left[column]]
        if not len(rest) or not _still(bad, left, rest):
            continue
        left[column] = False
        shared = [len(np.intersect1d(column, members)) / len(column) for _, members in kinds]
        nearest = int(np.argmax(shared)) if shared else 0
        if shared and shared[nearest] >= _JOINED:
            properties, members = kinds[nearest]
            kinds[nearest] = [*properties, place], np.union1d(members, column)
        else:
            kinds.append(([place], column))
    told = [
        _told([names[place] for place in properties], members, bad, p[properties[0]], q[properties[0]])
        for properties, members in kinds
    ]
    return Kinds(sorted(told, key=lambda kind: (kind.p_value, kind.properties)), len(columns))


def _properties(
    prompts: Sequence[str], metadata: Sequence[Mapping[str, str]], failures: int
) -> tuple[list[Property], list[NDArray[Any]]]:
    """What is worth a test, with the places for which it holds; of phrases that hold for the same, the longest."""
    terms = terms_of(prompts, _LEAST)
    matrix = terms.matrix
    counts = np.diff(matrix.indptr)
    likely = np.flatnonzero(
        (counts <= _COMMON * len(prompts)) & (least_possible(counts, failures, len(prompts)) < _REACHABLE)
    )
    distinct: dict[bytes, int] = {}
    for place in likely:
        column = matrix.indices[matrix.indptr[place] : matrix.indptr[place + 1]]
        digest = blake2b(column, digest_size=16).digest()
        known = distinct.get(digest)
        if known is None or len(terms.names[place]) > len(terms.names[known]):
            distinct[digest] = int(place)
    names = [Property("phrase", terms.names[place]) for place in distinct.values()]
    columns = [matrix.indices[matrix.indptr[place] : matrix.indptr[place + 1]] for place in distinct.values()]
    slices: dict[str, list[int]] = {}
    for place, values in enumerate(metadata):
        for key, value in values.items():
            slices.setdefault(f"{key}={value}", []).append(place)
    for name, places in slices.items():
        sizes = np.array([len(places)])
        if len(places) >= _LEAST and least_possible(sizes, failures, len(prompts))[0] < _REACHABLE:
            names.append(Property("metadata", name))
            columns.append(np.array(places))
    return names, columns


def _still(bad: NDArray[np.bool_], left: NDArray[np.bool_], rest: NDArray[Any]) -> bool:
    failures, everything = int(bad[left].sum()), int(left.sum())
    p = more_often(np.array([int(bad[rest].sum())]), np.array([len(rest)]), failures, everything)
    return bool(p[0] <= _STILL)


def _told(
    properties: list[Property], members: NDArray[Any], bad: NDArray[np.bool_], p: float, q: float
) -> Kind:
    failures = int(bad[members].sum())
    others = len(bad) - len(members)
    elsewhere = (int(bad.sum()) - failures) / others if others else 0.0
    return Kind(
        properties,
        [int(place) for place in members],
        failures,
        failures / len(members),
        elsewhere,
        float(p),
        float(q),
    )
