"""Errors, form and pace of two versions that answer users at once: what must not get worse, and acts at once. Pure.

Looked at again and again, a test at a fixed level fires by chance sooner or later. So each kind of harm may be called
falsely once in 300 comparisons over all looks together: a look is due when a quarter more answers have come
than at the last one, and the k-th may spend 6/(π k)² of that; at the end there is one more, however few answers came, with as
much as the first. Beside it stands one rule for a version that breaks down
in mid-life, however many answers came before: half of its newest fifty bad, where less than a tenth of the other's are.

Of one user no more than ten answers count, as those of one user fail together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, variance
from typing import Literal

from feedback.analysis.association import more_often_in_one
from trainer.findings import Finding, counted

WINDOW = 1000
"""Newest answers of each version that are looked at."""
PER_USER = 10
_FIRST, _GROWTH = 8, 1.25
_SPENT = 0.01 / 3
_NEWEST, _BROKEN, _WHOLE = 50, 0.5, 0.1
FEW = _NEWEST
"""Answers of the other version below which those of before stand beside them."""
_FEWEST_PACED = 20
LAST_LOOK = 1
"""As which the look at the end counts where no other is due."""


@dataclass(frozen=True)
class Watched:
    """One answer, as far as guardrails look at it."""

    unit: str
    failed: bool
    """The engine or the connection failed."""
    malformed: bool
    """It broke its contract, was empty, cut off, or went round in circles."""
    log_pace: float | None = None
    """Natural logarithm of milliseconds per output token."""


@dataclass(frozen=True)
class Tally:
    """The newest answers of one version, newest first, of each unit at most ten."""

    failed: list[bool] = field(default_factory=list)
    malformed: list[bool] = field(default_factory=list)
    """Of those that did not fail."""
    paces: list[float] = field(default_factory=list)
    """Mean `log_pace` of each unit."""

    @classmethod
    def of(cls, answers: Iterable[Watched]) -> Tally:
        """From answers, newest first."""
        failed: list[bool] = []
        malformed: list[bool] = []
        seen: dict[str, int] = {}
        paces: dict[str, list[float]] = {}
        for answer in answers:
            seen[answer.unit] = seen.get(answer.unit, 0) + 1
            if seen[answer.unit] > PER_USER:
                continue
            failed.append(answer.failed)
            if not answer.failed:
                malformed.append(answer.malformed)
            if answer.log_pace is not None:
                paces.setdefault(answer.unit, []).append(answer.log_pace)
        return cls(failed, malformed, [fmean(one) for one in paces.values()])

    @property
    def sound(self) -> int:
        """Answers that neither failed nor were malformed."""
        return len(self.malformed) - sum(self.malformed)

    @property
    def failing(self) -> bool:
        """Half of the newest fifty answers failed, or more; of fewer than eight in all nothing is said."""
        newest = self.failed[:_NEWEST]
        return len(newest) >= _FIRST and sum(newest) >= _BROKEN * len(newest)

    @property
    def hardly_asked(self) -> bool:
        """Too few answers for a failing version to be told from a failing engine beside them, and none that failed."""
        return len(self.failed) < _FIRST and not any(self.failed)


def due_look(answers: int, done: int) -> int:
    """The number of the newest look that is due with so many answers of the version on trial; `done` where none is new."""
    if answers < _FIRST:
        return done
    return max(done, 1 + math.floor(math.log(answers / _FIRST) / math.log(_GROWTH) + 1e-9))


def guard(
    on_trial: Tally,
    against: Tally,
    look: int | None,
    most_excess: float,
    most_slower: float | None,
    earlier: Tally | None = None,
) -> list[Finding]:
    """What the guardrails say. `look`: the number of the look that is due (from 1), None between two of them.

    `most_slower` is None where paces cannot be compared, as beside the bare base. `earlier`: what the other version answered
    before, which stands in for the form of its answers where hardly anybody asks it now: few users, or a backend that calls
    as one, leave an arm nearly empty. Users and requests of another time are others, so beside it only a version that broke down is held to have failed,
    and the level is not that of the rest. Errors and paces of another time would tell of engines.
    """
    level = None if look is None else _SPENT * 6 / (math.pi * look) ** 2
    findings = [
        _share("errors", "failed", on_trial.failed, against.failed, level, most_excess),
        _share("format", "malformed", on_trial.malformed, against.malformed, level, most_excess),
    ]
    if earlier is not None and findings[1].verdict != "against":
        beside = [*against.malformed, *earlier.malformed][:WINDOW]
        until_now = _broken(on_trial.malformed[:_NEWEST], beside, level, most_excess)
        if until_now.verdict == "against" or findings[1].verdict == "open":
            findings[1] = until_now
    if most_slower is not None:
        findings.append(_pace(on_trial.paces, against.paces, level, most_slower))
    return findings


def _share(
    about: str, word: str, ours: Sequence[bool], theirs: Sequence[bool], level: float | None, most: float
) -> Finding:
    if not ours:
        return Finding(about, "open", f"{about}: there is no answer of it to judge yet")
    bad, other = sum(ours), sum(theirs)
    share = bad / len(ours)
    text = f"{about}: {bad} of {counted(len(ours), 'answer')} {word} ({share:.1%})"
    if not theirs:  # the best that the other could have shown is none
        told = f"{text}; the other version has answered nobody meanwhile"
        return Finding(about, "note" if share <= most else "open", told)
    beside = other / len(theirs)
    text = f"{text}, beside {beside:.1%}"
    newest, others = ours[:_NEWEST], theirs[:_NEWEST]
    full = len(newest) == _NEWEST == len(others)
    if full and sum(newest) >= _BROKEN * _NEWEST and sum(others) < _WHOLE * _NEWEST:
        recent = f"{sum(newest)} of the newest {_NEWEST}, beside {sum(others)}"
        return Finding(about, "against", f"{text}; {recent}: it broke down")
    if level is None or share <= beside + most:
        return Finding(about, "note", text)
    if more_often_in_one(bad, len(ours), bad + other, len(ours) + len(theirs)) < level:
        return Finding(about, "against", f"{text}; more than {most:.0%} worse beyond chance")
    # so much may be no more than chance only where there is hardly anything to compare with
    verdict: Literal["open", "note"] = "open" if share >= _BROKEN else "note"
    return Finding(about, verdict, f"{text}; no more than chance explains so far")


def _broken(ours: Sequence[bool], theirs: Sequence[bool], level: float | None, most: float) -> Finding:
    """Whether a version broke down, by its newest answers beside what the other answered until now."""
    if not ours or not theirs:
        return Finding("format", "open", "format: there are no answers of both versions to judge yet")
    bad, other = sum(ours), sum(theirs)
    text = (
        f"format: {bad} of the newest {counted(len(ours), 'answer')} malformed ({bad / len(ours):.1%}), beside "
        f"{other / len(theirs):.1%} of the other version's until now"
    )
    if level is None or bad <= (other / len(theirs) + most) * len(ours):
        return Finding("format", "note", text)
    if more_often_in_one(bad, len(ours), bad + other, len(ours) + len(theirs)) >= level:
        verdict: Literal["open", "note"] = "open" if bad >= _BROKEN * len(ours) else "note"
        return Finding("format", verdict, f"{text}; no more than chance explains so far")
    if bad >= _BROKEN * len(ours) and other < _WHOLE * len(theirs):
        return Finding("format", "against", f"{text}: it broke down")
    return Finding("format", "open", f"{text}; worse beyond chance, but of another time")


def _pace(ours: Sequence[float], theirs: Sequence[float], level: float | None, most: float) -> Finding:
    if min(len(ours), len(theirs)) < _FEWEST_PACED:
        return Finding("latency", "note", "latency: too few users to compare the time per token")
    slower = fmean(ours) - fmean(theirs)
    text = f"latency: {math.expm1(slower):+.0%} time per token over {counted(len(ours), 'user')}"
    error = math.sqrt(variance(ours) / len(ours) + variance(theirs) / len(theirs))
    if level is None or slower <= math.log1p(most):
        return Finding("latency", "note", text)
    if slower - math.log1p(most) > NormalDist().inv_cdf(1 - level) * error:
        return Finding("latency", "against", f"{text}; more than {most:.0%} slower beyond chance")
    return Finding("latency", "note", f"{text}; no more than chance explains so far")
