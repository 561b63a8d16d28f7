"""What ratings and preferences are worth where few right answers are known: whether a model can learn from them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from feedback.datasets.curation import HeldBack
from feedback.datasets.methods import ENOUGH, OPINIONS, PREFERENCE, Evidence, Method, Wanted, choose
from feedback.datasets.said import Example, Pair
from feedback.datasets.splits import validates


class Opinions(NamedTuple):
    """What there is besides right answers."""

    worth: int
    """New right answers that they count for; 0 where the method learns from right answers alone."""
    told: str
    """What is there and what would be needed, in sentences; empty where nothing is there."""


def weigh_opinions(
    wanted: Wanted,
    targets: Iterable[Example],
    pairs: Iterable[Pair],
    rated: Iterable[Example],
    known: Collection[str],
    validation_share: float,
    held: HeldBack,
) -> Opinions:
    """Four new preferences, or four new good and as many new bad answers, count for one new right answer, where the method is
    the one that learns from them.

    `known` are content hashes of what the champion's dataset version held, `held` what the cap took off the ratings. Prompts that
    may watch the training do not count.
    """
    targets = [one for one in targets if not validates(one.group_key, validation_share)]
    pairs = [one for one in pairs if not validates(one.group_key, validation_share)]
    rated = [one for one in rated if not validates(one.group_key, validation_share)]
    evidence = Evidence.of(
        [(one.source, one.new) for one in targets],
        [one.source for one in pairs],
        [one.source == "rated+" for one in rated],
    )
    method: Method = choose("auto", evidence).method if wanted == "auto" else wanted
    good, bad = _new(rated, "rated+"), _new(rated, "rated-")
    preferred = sum(one.source == PREFERENCE and one.content_hash not in known for one in pairs)
    worth = {"sft": 0, "dpo": preferred, "kto": min(good, bad)}[method] // OPINIONS
    return Opinions(worth, _told(wanted, evidence, good, bad, preferred, held))


def _new(rated: Sequence[Example], source: str) -> int:
    return sum(one.new and one.source == source for one in rated)


def _told(wanted: Wanted, evidence: Evidence, good: int, bad: int, preferred: int, held: HeldBack) -> str:
    least = f" where there are {ENOUGH} of" if wanted == "auto" else " of"
    said = []
    if wanted in ("auto", "kto") and (evidence.good or evidence.bad):
        capped = (
            f", {held.corrections} above the cap of {held.cap} for each rater" if held.corrections else ""
        )
        said.append(
            f"Answers that were rated and no more: {evidence.good} good, {good} of them new, and {evidence.bad} bad, {bad} of them "
            f"new{capped}; KTO learns from those{least} each, and {OPINIONS} new ones of each count for one example."
        )
    if wanted in ("auto", "dpo") and evidence.chosen:
        said.append(
            f"Answers that were preferred to another: {evidence.chosen}, {preferred} of them new; DPO learns from those{least} them, "
            f"and {OPINIONS} new ones count for one example."
        )
    return " ".join(said)
