"""Which way to train: imitate right answers (SFT), prefer one of two (DPO), or good to bad ones (KTO). The choice is pure.

Where somebody wrote down the right answer, imitating it says most. Where people only found one answer better than
another, that preference is what there is to learn; where they only called answers good or bad, that.

Each training begins at the base, so all that a dataset version holds counts, not what is new in it alone: preferences teach a
model that has learned an answer, and do not teach the answer again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from feedback.errors import DataRefusedError

Method = Literal["sft", "dpo", "kto"]
Wanted = Literal["auto", "sft", "dpo", "kto"]
ENOUGH = 200
"""Pairs, or good and bad answers each, below which preferences teach little ("a few hundred")."""
FEW = 50
"""Right answers below which imitating them teaches little."""
OPINIONS = ENOUGH // FEW
"""Pairs, or good and bad answers each, that say as much as one right answer does."""
_WRITTEN = {"correction", "reviewer", "teacher", "best-of-n", "import"}
"""Sources whose better answer somebody wrote, or checked, as the right one."""
PREFERENCE = "preference"
"""The source of pairs that were preferred side by side: no target came of them."""
REPLAYED = "replay"
"""The source of answers that were rated well and are trained on as they are."""
_OLD_SKILL = {"base", REPLAYED}
"""Sources of what is trained on so that it is not forgotten."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What a dataset version holds, counted over its training side."""

    targets: int
    new: int
    right: int
    """Targets that taught something when they came: all but those trained on so that old skill is kept."""
    pairs: int
    preferred: int
    """Pairs whose better answer was only rated better, or preferred side by side."""
    chosen: int = 0
    """Those of them that were preferred side by side."""
    good: int
    """Answers that were rated well, those among the targets too."""
    bad: int
    """Single answers that were rated badly; those with 3 stars are neither."""

    @classmethod
    def of(cls, targets: Iterable[tuple[str, bool]], pairs: Iterable[str], rated: Iterable[bool]) -> Evidence:
        """Counted from each target's source and whether it is new, each pair's source, and whether a rated answer is good."""
        known = new = right = replayed = both = preferred = chosen = good = bad = 0
        for source, is_new in targets:
            known += 1
            new += is_new
            right += source not in _OLD_SKILL
            replayed += source == REPLAYED
        for source in pairs:
            both += 1
            preferred += source not in _WRITTEN
            chosen += source == PREFERENCE
        for is_good in rated:
            good += is_good
            bad += not is_good
        return cls(
            targets=known,
            new=new,
            right=right,
            pairs=both,
            preferred=preferred,
            chosen=chosen,
            good=good + replayed,
            bad=bad,
        )


class Choice(Struct, frozen=True):
    """The method, and why."""

    method: Method
    reason: str


def choose(wanted: Wanted, evidence: Evidence) -> Choice:
    """The method that is asked for, or with `auto` the one that the evidence speaks for.

    Raises `DataRefusedError` where there is nothing that the method could learn from.
    """
    held = (
        f"{evidence.right} right answers ({evidence.new} new) beside {evidence.targets - evidence.right} of old skill, "
        f"{evidence.pairs} pairs"
    )
    if evidence.good or evidence.bad:
        held += f", {evidence.good} good and {evidence.bad} bad answers"
    if wanted != "auto":
        _refuse_without_evidence(wanted, evidence)
        return Choice(wanted, f"{wanted} was asked for; the dataset version has {held}")
    written = max(evidence.right - (evidence.preferred - evidence.chosen), 0)
    if evidence.preferred >= ENOUGH and evidence.preferred > written:
        return Choice(
            "dpo", f"{held}: most of it was only found better than another answer, so pairs are learned from"
        )
    if min(evidence.good, evidence.bad) >= ENOUGH and evidence.right < FEW:
        return Choice(
            "kto",
            f"{held}: few right answers are known, and many answers were called good or bad, so those are learned from",
        )
    return Choice("sft", f"{held}: right answers are known, and imitating them says most")


def _refuse_without_evidence(wanted: Wanted, evidence: Evidence) -> None:
    if wanted == "dpo" and not evidence.pairs:
        raise DataRefusedError(
            "the dataset version has no pairs of a better and a worse answer, which DPO learns from; use --method sft"
        )
    if wanted == "kto" and not (evidence.bad or evidence.pairs):
        raise DataRefusedError(
            "the dataset version has only good answers, and KTO learns from good and bad ones; use --method sft"
        )
