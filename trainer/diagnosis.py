"""What is wrong with a training, read off its losses: a kind, a sentence, and what was done about it. Pure.

Losses are means per answer token in nats. A check is a look at the validation examples; `train` is the mean of the steps
since the check before, so it is None at step 0, which shows the base as it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct

Kind = Literal[
    "overfitting",
    "flat",
    "harmful",
    "not_finite",
    "spike",
    "unstable",
    "leakage",
    "forgetting",
    "out_of_memory",
    "checkpoint_not_saved",
]

OF_CHECKS = ("overfitting", "flat", "harmful", "leakage", "forgetting")
"""Kinds that are read off the whole run of checks: with checks that are undone they are undone too."""
LOWERED = 0.25
"""What the rate is multiplied by, once, after a loss that burst."""
_HIGH = 0.5
"""Loss above which a model has something left to learn from its examples."""
_FLAT = 0.95
_EASIER = 0.8
_LEAST_CHECKS = 5
_FORGOT = 0.05
"""Rise of the loss on old, or on all, examples that matters: each token of theirs some 5 % less likely."""
_BURST, _BURST_MORE = 2.0, 2.0
_RISEN = 1.1
"""Times the training loss of the kept weights: a rise that one check alone is believed; of two in a row any is."""


class Check(Struct, frozen=True, kw_only=True):
    """One look at the validation examples, all of them and the new and the old ones apart."""

    step: int
    epoch: int
    train: float | None
    validation: float
    validation_new: float | None = None
    validation_old: float | None = None


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What was noticed at a step, in a sentence that says what to do where nothing was done."""

    kind: Kind
    step: int
    text: str
    remedy: str | None = None
    """What the training did about it by itself."""


def untrained(first: float, checks: Sequence[Check]) -> float:
    """The most that the untrained model loses: at the first step, or on validation examples, the new ones or the old ones."""
    looks = [loss for one in checks for loss in (one.validation, one.validation_new, one.validation_old)]
    return max([first, *(loss for loss in looks if loss is not None)])


def burst(loss: float, before: float) -> bool:
    """Whether a step's loss is beyond anything that chance gives: far above the worst of the untrained model."""
    return loss > _BURST * before + _BURST_MORE


def overfitting(checks: Sequence[Check], kept_step: int, worse: int, stopped: bool) -> Diagnosis | None:
    """Validation rises beyond chance while training falls. `worse` counts the checks in a row for which that holds."""
    kept = next((check for check in checks if check.step == kept_step), None)
    last = checks[-1]
    if not worse or kept is None or last.train is None:
        return None
    if kept.train is not None and last.train >= kept.train:
        return None
    return Diagnosis(
        kind="overfitting",
        step=last.step,
        text=f"overfitting: since step {kept_step} the loss on validation examples rose from {kept.validation:.3f} to "
        f"{last.validation:.3f} while that on training examples fell to {last.train:.3f}; more and more varied examples, "
        "or fewer epochs, help",
        remedy=f"the weights of step {kept_step} are kept"
        + (", and the training ended there" if stopped else ""),
    )


def unstable(
    checks: Sequence[Check], kept_step: int, worse: int, lower: float, untrained: float
) -> Diagnosis | None:
    """Validation rises beyond chance and training does not fall: steps too long to settle. `worse` as for `overfitting`.

    Where the untrained model is the best so far its training loss is `untrained`, the most that it loses.
    """
    kept = next((check for check in checks if check.step == kept_step), None)
    last = checks[-1]
    if not worse or kept is None or last.train is None:
        return None
    before, risen = (untrained, 1.0) if kept.train is None else (kept.train, _RISEN if worse == 1 else 1.0)
    if last.train < risen * before:
        return None
    return Diagnosis(
        kind="unstable",
        step=last.step,
        text=f"unstable: since step {kept_step} the loss rose on validation examples from {kept.validation:.3f} to "
        f"{last.validation:.3f} and on training examples from {before:.3f} to {last.train:.3f}; the learning rate is too high",
        remedy=f"went back to the weights of step {kept_step} and goes on at a rate of {lower:g} instead of {lower / LOWERED:g}",
    )


def flat(checks: Sequence[Check], rate: float, rank: int, trained_share: float) -> Diagnosis | None:
    """Nothing was learned though there was much to learn, and nothing lost; looked at when a training is over."""
    first, last = checks[0], checks[-1]
    if first.validation < _HIGH or last.train is None or last.validation > _RISEN * first.validation:
        return None
    if min(last.train, last.validation) < _FLAT * first.validation:
        return None
    return Diagnosis(
        kind="flat",
        step=last.step,
        text=f"flat: after {last.step} steps the loss is {last.validation:.3f} and was {first.validation:.3f} before the "
        f"first, so nothing was learned; the learning rate ({rate:g}) or the rank ({rank}) is too low, or the answers "
        f"({trained_share:.0%} of all tokens) do not follow from their prompts",
    )


def harmful(checks: Sequence[Check], kept_step: int, rate: float) -> Diagnosis | None:
    """The weights that are kept are worse than none; looked at when a training is over, or ends early."""
    first = checks[0]
    kept = next((check for check in checks if check.step == kept_step), first)
    if kept.validation <= max(_RISEN * first.validation, first.validation + _FORGOT):
        return None
    return Diagnosis(
        kind="harmful",
        step=checks[-1].step,
        text=f"worse than untrained: the loss on validation examples is {kept.validation:.3f} at its best and was "
        f"{first.validation:.3f} before the first step; the learning rate ({rate:g}) is too high, or the answers contradict what the "
        "model knew and each other",
    )


def leakage(checks: Sequence[Check]) -> Diagnosis | None:
    """Validation below training throughout, once the first half is over, in which all falls. Each check is held against
    the steps *after* it: those before it were made by a model that knew less."""
    pairs = [(now.validation, after.train) for now, after in pairwise(checks[1 + len(checks) // 2 :])]
    if len(pairs) < _LEAST_CHECKS:
        return None
    if not all(train is not None and validation < _EASIER * train for validation, train in pairs):
        return None
    last = checks[-1]
    return Diagnosis(
        kind="leakage",
        step=last.step,
        text=f"validation is below training throughout ({last.validation:.3f} against {last.train or 0.0:.3f}): its examples "
        "are easier than those that are trained on, or stand among them; look for near-duplicates across the splits "
        "(`starloop data check`) before believing its loss",
    )


def forgetting(checks: Sequence[Check], lowest_step: int, worse: int) -> Diagnosis | None:
    """Old examples get worse while new ones get better. `worse` counts the checks in a row at which the old ones were
    worse, beyond chance, than at `lowest_step`."""
    before = next((check for check in checks if check.step == lowest_step), None)
    last = checks[-1]
    if worse < 2 or before is None or last.validation_old is None or before.validation_old is None:
        return None
    if last.validation_old < before.validation_old + _FORGOT:
        return None
    if (
        last.validation_new is None
        or before.validation_new is None
        or last.validation_new >= before.validation_new
    ):
        return None
    return Diagnosis(
        kind="forgetting",
        step=last.step,
        text=f"forgetting: since step {lowest_step} the loss on old examples rose from {before.validation_old:.3f} to "
        f"{last.validation_old:.3f} while that on new ones fell from {before.validation_new:.3f} to "
        f"{last.validation_new:.3f}; more replay ([dataset] replay) keeps what the model could do",
    )


def diverged(finite: bool, step: int, loss: float, back_to: int, rate: float, named: str) -> Diagnosis:
    """A step's loss or gradient was no finite number, or burst; the rate is lowered once. `named` says on which examples."""
    what = "was not a finite number" if not finite else f"jumped to {loss:.3g}"
    return Diagnosis(
        kind="not_finite" if not finite else "spike",
        step=step,
        text=f"at step {step} the loss {what}; {named}",
        remedy=f"went back to the weights of step {back_to} and goes on at a rate of {rate:g} instead of {rate / LOWERED:g}",
    )


def out_of_memory(step: int, rows: int, longest: int) -> Diagnosis:
    """A forward pass of that many examples found no room."""
    return Diagnosis(
        kind="out_of_memory",
        step=step,
        text=f"out of memory at step {step} with {rows} examples of up to {longest} tokens at a time",
        remedy=f"goes on with {max(1, rows // 2)} at a time, and as many more passes for each step",
    )


def checkpoint_not_saved(step: int, problem: str, saved_step: int) -> Diagnosis:
    """The disk did not take a checkpoint, or memory did not; `problem` says which, and what to do."""
    since = f"step {saved_step}" if saved_step else "the beginning"
    return Diagnosis(
        kind="checkpoint_not_saved",
        step=step,
        text=f"the checkpoint of step {step} could not be saved {problem}",
        remedy=f"the training goes on; if it is interrupted now, it starts again from {since}",
    )
