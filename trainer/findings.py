"""What the gate looks at, one finding each: which way it points, and a sentence that says so with its numbers.

Two of them compare measurements, and noise must not decide them:
- Format validity has no slack ("not below the champion's"), so one unlucky answer among hundreds would refuse
  every second equal challenger. Below means shown to be below: the paired interval's upper bound < 0. The floor
  is held to the letter.
- Latency per token is held to its limit to the letter, but only a measured excess rejects: where the interval of the
  ratio still reaches below the limit, the finding is open. Against the bare base it is a note: any adapter
  costs time there, and refusing for it would refuse every first version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from feedback.shares import wilson_low
from trainer.comparison import Comparison, Outcome
from trainer.statistics import cases_for_bound, cases_for_non_inferiority, cases_for_superiority

_PLANNED_DIFFERENCE = 0.05
_PLANNED_DISCORDANCE = 0.20
_Z = 1.959964
_POWER_FACTOR = (_Z + 0.841621) / _Z
"""How much further than its 95 % bound an estimate must lie for 80 % power."""

_HOPELESS = 1_000_000
"""What so many cases would not decide, no number does that anyone could confirm."""


class Finding(Struct, frozen=True):
    """One thing that was looked at, and which way it points."""

    about: str
    verdict: Literal["for", "against", "open", "note"]
    text: str
    deciding: int | None = None
    """Cases that the suite would have to hold for a decision, if what was seen goes on; None where no number would decide."""


class Latency(Struct, frozen=True):
    """Milliseconds per output token of both versions, measured in turns in one run."""

    pairs: int
    champion: float
    challenger: float
    ratio: float
    """Challenger's median over the champion's."""
    interval: tuple[float, float]
    against_base: bool
    """Whether the champion is the base without an adapter."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun in the right form; without `many`, the plural is formed with s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def golden_finding(golden: Comparison, about: str = "golden set", limit: int | None = None) -> Finding:
    """Better only where the lower bound is above 0, harm where the upper one is below. `limit`: cases read at most."""
    planned = cases_for_superiority(_PLANNED_DIFFERENCE, _PLANNED_DISCORDANCE)
    plan = f"about {planned} show a difference of 5 points where one answer in five differs"
    if golden.n == 0:
        return Finding(
            about,
            "open",
            f"{about}: it holds no confirmed case, so nothing can show that the challenger is better. Draw cases "
            f"from live prompts and confirm their answers; {plan}{_limited(planned, limit)}",
            planned,
        )
    numbers = f"{about}: {_numbers(golden)}"
    if golden.conclusive and golden.low > 0:
        return Finding(about, "for", f"{numbers}; better beyond chance")
    if golden.conclusive and golden.high < 0:
        return Finding(about, "against", f"{numbers}; worse beyond chance")
    wanted = _deciding_golden(golden)
    told = _more(golden, wanted, golden.n, limit)
    if wanted is None and not golden.scored and golden.n < planned:
        told += f"; {plan}"
    return Finding(about, "open", f"{numbers}; not enough to tell. {told}", wanted)


def regression_finding(
    fair: Comparison, margin: float, every: Comparison | None = None, limit: int | None = None
) -> Finding:
    """Protected where the lower bound is above −margin, harm where even the upper one is below it.

    `every` holds besides the fair cases those that the champion was chosen to pass. They speak against the challenger by
    half of all differences even where both are equal, so a bound that they hold counts, and one that they break does not
    (`praised_finding` looks at what was lost of them). `limit`: cases read at most.
    """
    about = "regression suite"
    every = every or fair
    points = f"{margin:g} on average" if every.scored else f"{100 * margin:g} points"
    if every.n == 0:
        planned = cases_for_non_inferiority(margin, 0.0)
        return Finding(
            about,
            "open",
            "regression suite: it is empty, so a loss of what the champion can do would not be seen. Name a file of "
            "`examples` for the model, or have answers rated: those praised on the evaluation side become cases; at "
            f"least {planned} are needed to exclude a loss of {points}{_limited(planned, limit)}",
            planned,
        )
    own = every.n - fair.n
    beside = (
        f"; with {counted(own, 'answer')} that the champion was praised for: {_numbers(every)}" if own else ""
    )
    if fair.conclusive and fair.n and fair.high < -margin:
        return Finding(
            about, "against", f"regression suite: {_numbers(fair)}; it lost more than {points} beyond chance"
        )
    for compared, told in ((every, f"{_numbers(every)}"), (fair, f"{_numbers(fair)}{beside}")):
        if compared.n and compared.conclusive and compared.low > -margin:
            return Finding(about, "for", f"regression suite: {told}; a loss of {points} is excluded")
    numbers = (
        f"regression suite: {_numbers(fair)}{beside}" if fair.n else f"regression suite: {_numbers(every)}"
    )
    if not fair.n and every.difference <= -margin:
        return Finding(
            about,
            "open",
            f"{numbers}; a loss of {points} is not excluded, nor proven: the champion was praised for all of these answers, "
            "so a challenger can only lose here. Name a file of `examples` for the model, or decide by the golden set",
        )
    compared = fair if fair.n else every
    wanted = _deciding_regression(compared, margin)
    text = f"{numbers}; a loss of {points} is not excluded. {_more(compared, wanted, every.n, limit)}"
    return Finding(about, "open", text, wanted)


def praised_finding(own: Comparison, golden: Sequence[Outcome], margin: float) -> list[Finding]:
    """What became of answers that the champion was praised for: holds a promotion up, never condemns.

    Any other version breaks some of what the champion has right. How much, the golden set shows, which was drawn blind: what
    is lost beyond that (its upper bound) and beyond `margin` was not lost by chance. Without a golden set nobody can tell.
    """
    if not own.n:
        return []
    about = "praised answers"
    told = f"praised answers: of {own.n} that the champion was praised for, {own.regressions} are lost"
    right = [outcome for outcome in golden if outcome.champion == 1]
    if not right:
        return [
            Finding(about, "note", f"{told}; how many any other version would lose, a golden set would tell")
        ]
    kept = sum(not outcome.regressed for outcome in right)
    expected = 1 - wilson_low(kept, len(right), _Z)
    shown = f"{len(right) - kept} of {len(right)} right ones in the golden set"
    if own.high < -(margin + expected):
        text = f"{told}, far more than of {shown}: what users praise was unlearned"
        return [Finding(about, "open", text)]
    return [Finding(about, "note", f"{told}; of {shown}")]


def critical_finding(outcomes: Sequence[Outcome]) -> Finding:
    """A single critical case that regresses rejects."""
    about = "critical cases"
    critical = [outcome for outcome in outcomes if outcome.critical]
    lost = [outcome.id for outcome in critical if outcome.regressed]
    if lost:
        named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        return Finding(about, "against", f"critical cases: the champion was better on {named}")
    if not critical:
        return Finding(about, "note", "critical cases: none is marked")
    return Finding(about, "for", f"critical cases: none of {len(critical)} regressed")


def validity_finding(outcomes: Sequence[Outcome], compared: Comparison, floor: float) -> Finding:
    about = "format"
    if not outcomes:
        return Finding(about, "open", "format: no answer was looked at, so its validity is not known")
    champion = sum(outcome.champion for outcome in outcomes) / len(outcomes)
    challenger = sum(outcome.challenger for outcome in outcomes) / len(outcomes)
    numbers = (
        f"format: {challenger:.1%} of {counted(len(outcomes), 'answer')} valid, champion's {champion:.1%}"
    )
    if challenger < floor:
        return Finding(about, "against", f"{numbers}; the floor is {floor:.0%}")
    if compared.high < 0:
        return Finding(about, "against", f"{numbers}; fewer beyond chance")
    below = "; fewer, but no more than chance explains" if challenger < champion else ""
    return Finding(about, "for", numbers + below)


def latency_finding(latency: Latency | None, limit: float) -> Finding:
    about = "latency"
    if latency is None:
        return Finding(about, "open", "latency: it could not be measured, as no answer had any tokens")
    low, high = (100 * (bound - 1) for bound in latency.interval)
    numbers = (
        f"latency: {latency.challenger:.2f} ms per token, champion's {latency.champion:.2f} "
        f"({100 * (latency.ratio - 1):+.0f} %, 95 %: {low:+.0f} to {high:+.0f}, {counted(latency.pairs, 'pair')})"
    )
    if latency.against_base:
        return Finding(
            about, "note", f"{numbers}; the champion is the bare base, beside which any adapter is slower"
        )
    if latency.ratio <= 1 + limit:
        return Finding(about, "for", f"{numbers}; within {limit:.0%}")
    if latency.interval[0] > 1 + limit:
        return Finding(about, "against", f"{numbers}; slower by more than {limit:.0%} beyond chance")
    return Finding(
        about,
        "open",
        f"{numbers}; more than {limit:.0%} slower, but the machine was too noisy to be sure: run the cycle again",
    )


def holdout_finding(holdout: Comparison) -> Finding:
    text = _numbers(holdout) if holdout.n else "no failure with an accepted correction is held out"
    return Finding("failure hold-out", "note", f"failure hold-out, for information: {text}")


def looks_finding(looks: Sequence[int]) -> list[Finding]:
    """Every look at a case gives luck another chance, so looks are counted and shown."""
    read = sum(count > 0 for count in looks)
    if not read:
        return []
    return [
        Finding(
            "looks",
            "note",
            f"golden set: {read} of {counted(len(looks), 'case')} ({read / len(looks):.0%}) {'was' if read == 1 else 'were'} read "
            f"before, up to {counted(max(looks), 'time')}; confirm fresh ones, as every look is another chance for luck",
        )
    ]


def _numbers(compared: Comparison) -> str:
    low, high = compared.low, compared.high
    if compared.scored:
        between = f"95 %: {low:+.3f} to {high:+.3f}" if compared.interval else "one score has no interval"
        return (
            f"{counted(compared.fixes, 'case')} scored higher and {compared.regressions} lower of {compared.n}, "
            f"{compared.difference:+.3f} on average ({between})"
        )
    return (
        f"{counted(compared.fixes, 'fix', 'fixes')} and {counted(compared.regressions, 'regression')} "
        f"in {counted(compared.n, 'case')}, "
        f"{100 * compared.difference:+.1f} points (95 %: {100 * low:+.1f} to {100 * high:+.1f})"
    )


def _more(compared: Comparison, wanted: int | None, held: int, limit: int | None) -> str:
    """How many cases more would decide, for a suite that holds `held` now."""
    if wanted is None:
        return "No number of cases would decide, if what was seen so far goes on" + _limited(held + 1, limit)
    more = wanted - compared.n
    return f"About {counted(more, 'more case')} would decide, if what was seen so far goes on" + _limited(
        held + more, limit
    )


def _limited(cases: int, limit: int | None) -> str:
    """That so many cases of a suite would not be read, where that is so."""
    if limit is None or cases <= limit:
        return ""
    return f" (of a suite at most {limit} are read: `[evaluation] suite_limit`)"


def _deciding_golden(golden: Comparison) -> int | None:
    """Cases for 80 % power at the difference seen."""
    distance = abs(golden.difference)
    if not distance:
        return None
    if golden.scored:
        return _within_reach(golden, _for_scores(golden, distance))
    return _within_reach(golden, cases_for_superiority(distance, golden.discordance))


def _deciding_regression(regression: Comparison, margin: float) -> int | None:
    """Cases for 80 % power to tell the difference seen from −margin, on whichever side of it that lies."""
    distance = regression.difference + margin
    if not distance:
        return None
    if regression.scored:
        return _within_reach(regression, _for_scores(regression, abs(distance)))
    wanted = cases_for_non_inferiority(margin, regression.discordance, regression.difference)
    # With few that differ the asymptotic number falls short of what the interval itself takes.
    least = cases_for_bound(regression.fixes, regression.regressions, regression.n, -margin)
    return _within_reach(regression, max(wanted, least))


def _for_scores(compared: Comparison, distance: float) -> float:
    """The same for scores: an interval narrows with the root of the cases. One score shows no spread."""
    half = (compared.high - compared.low) / 2 if compared.interval else 0.0
    ratio = _POWER_FACTOR * half / distance
    return math.inf if ratio > _HOPELESS else compared.n * ratio**2


def _within_reach(compared: Comparison, cases: float) -> int | None:
    """More than there are, and no fewer than an interval takes to be believed; None beyond all reach."""
    return None if cases > _HOPELESS else max(math.ceil(cases), compared.n + 1, compared.least)
