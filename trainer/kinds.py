"""Whether a challenger pays for a better whole with single kinds of answer, or with single kinds of request. Pure.

Each kind's fixes and regressions are put to McNemar's exact test for harm. With many kinds one looks bad by luck in most cycles,
so the p-values are adjusted together (Benjamini and Hochberg): of equal challengers, no more are refused for a kind
than the level says, however many kinds there are. Kinds too small to prove anything are left out of the family, by their
number of differing cases alone, which says nothing about the direction.

A kind's own cases tell of what it lost, not of what it was wrongly taken for. A champion that gives one answer to all that it
does not know is never wrong where that answer is right, and whoever learns to tell them apart must lose some of these. So a
kind that lost is forgiven where the golden set proves that what is and what is not of it is told apart better than before, unless
most of it is lost: a kind that is given no more is told apart best by a golden set that holds next to none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from msgspec import Struct, structs
from scipy.special import bdtr

from feedback.analysis.association import false_discovery_adjusted
from trainer.comparison import Outcome
from trainer.findings import Finding, counted
from trainer.statistics import cases_for_superiority

FEWEST_CASES = 10
_FEWEST_DIFFERING = 6
"""With fewer, not even regressions alone are harm at `_PROVEN`."""
_PROVEN = 0.025
"""One-sided, as each bound of the gate's intervals."""
_SUSPECTED = 0.10
_NAMED = 5


class Kind(Struct, frozen=True):
    """One kind with its paired outcomes, counted."""

    name: str
    n: int
    fixes: int
    regressions: int
    p: float
    """Of harm, adjusted for all kinds that were looked at."""
    family: int
    """How many these were."""
    apart: tuple[int, int] = (0, 0)
    """On how many golden cases the challenger alone, and the champion alone, tells rightly whether they are of this kind."""

    held: int = 0
    """How many of its cases the champion had right, or scored above 0."""

    @property
    def forgiven(self) -> bool:
        """Whether it is told apart better beyond chance, its lost cases counted, and not lost itself for the most part."""
        better, worse = self.apart
        if better <= worse or 2 * self.regressions > self.held:
            return False
        return float(bdtr(worse, better + worse, 0.5)) <= _PROVEN

    @property
    def more(self) -> int:
        """Further cases of it that would prove it worse, if what was seen so far goes on, among as many kinds."""
        differing = self.fixes + self.regressions
        strictness = float(bdtr(self.fixes, differing, 0.5)) / self.p
        level = 2 * _PROVEN * strictness
        wanted = cases_for_superiority((self.regressions - self.fixes) / self.n, differing / self.n, level)
        return max(wanted - self.n, 1)

    @property
    def told(self) -> str:
        """The kind and its numbers in words."""
        points = 100 * (self.fixes - self.regressions) / self.n
        return (
            f"{self.name[:60]!r}: {counted(self.fixes, 'fix', 'fixes')} and {counted(self.regressions, 'regression')} in "
            f"{counted(self.n, 'case')}, {points:+.1f} points (p = {self.p:.2g} among {self.family})"
        )


def compared_kinds(outcomes: Iterable[Outcome], names: Callable[[Outcome], Iterable[str]]) -> list[Kind]:
    """The kinds that can be told to be worse, the worst first; `names` gives the kinds that a case is of."""
    counts: dict[str, list[int]] = {}
    for outcome in outcomes:
        for name in names(outcome):
            count = counts.setdefault(name, [0, 0, 0, 0])
            count[0] += 1
            count[1] += outcome.challenger > outcome.champion
            count[2] += outcome.regressed
            count[3] += outcome.champion > 0
    family = [
        (name, n, fixes, regressions, held)
        for name, (n, fixes, regressions, held) in sorted(counts.items())
        if n >= FEWEST_CASES and fixes + regressions >= _FEWEST_DIFFERING
    ]
    harm = [float(bdtr(fixes, fixes + regressions, 0.5)) for _, _, fixes, regressions, _ in family]
    adjusted = false_discovery_adjusted(np.array(harm))
    kinds = [
        Kind(name, n, fixes, regressions, float(p), len(family), held=held)
        for (name, n, fixes, regressions, held), p in zip(family, adjusted, strict=True)
    ]
    return sorted(kinds, key=lambda kind: (kind.p, kind.name))


def kinds_finding(golden: Sequence[Outcome], regression: Sequence[Outcome] = ()) -> list[Finding]:
    """By kind of answer: one that is worse beyond chance rejects, one under suspicion leaves it open."""
    kinds = compared_kinds(
        [*golden, *regression], lambda outcome: () if outcome.slice is None else (outcome.slice,)
    )
    if not kinds:
        return []
    about = "kinds of answer"
    lost = [structs.replace(kind, apart=_apart(golden, kind.name)) for kind in kinds if kind.p <= _SUSPECTED]
    found, forgiven = [], [kind for kind in lost if kind.forgiven]
    proven, suspected = (
        [kind for kind in lost if not kind.forgiven and kind.p <= level] for level in (_PROVEN, _SUSPECTED)
    )
    if proven:
        found.append(Finding(about, "against", f"{about}: {_listed(proven)}; worse beyond chance"))
    elif suspected:
        more = counted(max(kind.more for kind in suspected), "more confirmed case")
        which = "that kind" if len(suspected) == 1 else "each of these kinds"
        meaning = f"under suspicion of being worse; about {more} of {which} would decide, if what was seen so far goes on"
        found.append(Finding(about, "open", f"{about}: {_listed(suspected)}; {meaning}"))
    elif not forgiven:
        meaning = f"none of {len(kinds)} that can be told is worse beyond chance"
        found.append(Finding(about, "for", f"{about}: {meaning}"))
    for kind in forgiven:
        better, worse = kind.apart
        told = f"on {counted(better, 'golden case')} the challenger alone tells rightly whether they are of it, on {worse} the champion alone"
        found.append(
            Finding(about, "for", f"{about}: {kind.told}; but {told}: told apart better beyond chance")
        )
    return found


def _apart(golden: Iterable[Outcome], name: str) -> tuple[int, int]:
    better = worse = 0
    for outcome in golden:
        champion, challenger = (
            bool(right) if outcome.slice == name else said != name
            for right, said in zip((outcome.champion, outcome.challenger), outcome.said, strict=True)
        )
        better += challenger and not champion
        worse += champion and not challenger
    return better, worse


def facets_finding(outcomes: Sequence[Outcome]) -> list[Finding]:
    """By the requests' metadata, for information: what is worse beyond chance, if anything is."""
    worse = [kind for kind in compared_kinds(outcomes, lambda outcome: outcome.facets) if kind.p <= _PROVEN]
    if not worse:
        return []
    return [Finding("metadata", "note", f"metadata, for information: {_listed(worse)}; worse beyond chance")]


def _listed(kinds: Sequence[Kind]) -> str:
    more = f"; and {len(kinds) - _NAMED} more" if len(kinds) > _NAMED else ""
    return "; ".join(kind.told for kind in kinds[:_NAMED]) + more
