"""Two versions' outcomes on the same cases, put side by side: what the gate decides by and what `compare` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from feedback.paired import tango_interval
from trainer.statistics import bootstrap_interval, mcnemar_exact

MINIMUM_SCORED = 20
"""Fewer scored cases than this decide nothing: resampling so few says little about the cases not seen."""
MINIMUM_CASES = 5
"""Passed and failed, fewer than this decide nothing either: of two equal ones that differ on all of four cases, one in sixteen wins
all four, though Tango's interval then leaves 0 out; from five on the one-sided level is kept nearly to the letter."""
_SEED = 20260101  # resampling must give the same file the same decision


class Outcome(Struct, frozen=True):
    """What both versions made of one case. Passed and failed are 1 and 0."""

    id: str
    champion: float
    challenger: float
    slice: str | None = None
    critical: bool = False
    facets: Sequence[str] = ()
    """What else the case is reported by."""
    said: tuple[str | None, str | None] = (None, None)
    """Of which kind champion's and challenger's answers are; `slice` is the kind of the right one."""

    @property
    def regressed(self) -> bool:
        """Whether the challenger did worse on it."""
        return self.challenger < self.champion


class Comparison(Struct, frozen=True):
    """Paired statistics over a suite; differences are challenger minus champion, the interval is at 95 %.

    One score says nothing of how scores vary, so it has no interval.
    """

    n: int
    fixes: int
    regressions: int
    p_value: float
    """Exact McNemar; on scores the same test on how many cases went up and how many down (a sign test)."""
    difference: float
    interval: tuple[float, float] | None
    scored: bool = False
    """Whether outcomes are scores rather than passed and failed."""

    @property
    def low(self) -> float:
        """The interval's lower bound; without one nothing is excluded."""
        return self.interval[0] if self.interval else -math.inf

    @property
    def high(self) -> float:
        """Its upper bound."""
        return self.interval[1] if self.interval else math.inf

    @property
    def discordance(self) -> float:
        """Share of cases on which the two differ."""
        return (self.fixes + self.regressions) / self.n if self.n else 0.0

    @property
    def least(self) -> int:
        """Cases that it takes for the interval to be believed."""
        return MINIMUM_SCORED if self.scored else MINIMUM_CASES

    @property
    def conclusive(self) -> bool:
        """Whether there are as many."""
        return self.n >= self.least

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Comparison:
        """Tango's interval on passed and failed; the paired bootstrap as soon as one outcome is a score between."""
        outcomes = list(outcomes)
        fixes = sum(outcome.challenger > outcome.champion for outcome in outcomes)
        regressions = sum(outcome.regressed for outcome in outcomes)
        scored = any(value not in (0, 1) for one in outcomes for value in (one.champion, one.challenger))
        differences = [outcome.challenger - outcome.champion for outcome in outcomes]
        return cls(
            n=len(outcomes),
            fixes=fixes,
            regressions=regressions,
            p_value=mcnemar_exact(fixes, regressions),
            difference=sum(differences) / len(differences) if differences else 0.0,
            interval=_interval(differences, scored, fixes, regressions),
            scored=scored,
        )


def _interval(
    differences: Sequence[float], scored: bool, fixes: int, regressions: int
) -> tuple[float, float] | None:
    if not scored:
        return tango_interval(fixes, regressions, len(differences))
    if len(differences) < 2:
        return None
    return bootstrap_interval(differences, _SEED)


def slices(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by their slice, in order of name; those without one are left out."""
    grouped: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.slice is not None:
            grouped.setdefault(outcome.slice, []).append(outcome)
    return dict(sorted(grouped.items()))
