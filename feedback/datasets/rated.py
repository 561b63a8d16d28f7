"""Answers that were rated and no more: good and bad ones, unpaired, for training on likes and dislikes. Pure.

A bad answer here is no target: nothing imitates it, it is only what a model is led away from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from feedback.datasets.chat import content_hash
from feedback.datasets.curation import HeldBack, lowest_cap
from feedback.datasets.raters import EVERYBODY, Trust
from feedback.datasets.said import Example, Said
from feedback.settings import Dataset

GOOD, BAD = 4, 2
"""Stars from which an answer is good, and up to which it is bad; 3 say neither."""
MOST = 5_000
"""Of each kind in one dataset version; of more, the first by hash."""


def choose_rated(
    said: Sequence[Said],
    judging: Collection[str],
    used: Collection[str | None],
    trust: Trust = EVERYBODY,
    known: Collection[str] = (),
) -> list[Example]:
    """Answers of the training side that all believed raters call good, or all bad, as `rated+` and `rated-`, oldest first.

    Left out are those that raters disagree on, that a person has dealt with, whose group judges a version, and the
    inferences `used` otherwise, as examples or in pairs. New are those that are not among the content hashes `known`.
    """
    found: dict[str, dict[str, Example]] = {"rated+": {}, "rated-": {}}
    for one in said:
        if one.side != "train" or one.group_key in judging or one.resolution is not None or not one.output:
            continue
        if one.inference_id in used:
            continue
        signals = [
            signal
            for signal in one.signals
            if signal.rating is not None
            and not trust.low(signal.rater)
            and signal.feedback_id not in trust.held
            and not trust.contradicted(signal.feedback_id)
        ]
        stars = [signal.rating for signal in signals if signal.rating is not None]
        kind = (
            "rated+" if min(stars, default=0) >= GOOD else "rated-" if max(stars, default=9) <= BAD else None
        )
        if kind is None:
            continue
        identity = content_hash(one.messages, one.output, one.tools)
        example = Example(
            messages=one.messages,
            answer=one.output,
            source=kind,
            group_key=one.group_key,
            content_hash=identity,
            new=identity not in known,
            tools=one.tools,
            inference_id=one.inference_id,
            feedback_id=signals[0].feedback_id,
            rater=signals[0].rater,
        )
        found[kind].setdefault(example.content_hash, example)
    disputed = found["rated+"].keys() & found["rated-"].keys()
    kept = [
        example
        for examples in found.values()
        for example in [examples[key] for key in sorted(examples.keys() - disputed)][:MOST]
    ]
    return sorted(kept, key=lambda example: example.feedback_id or "")


def cap_rated(
    rated: Sequence[Example], settings: Dataset, reviews: Collection[str]
) -> tuple[list[Example], HeldBack]:
    """Each rater's oldest new ones up to a cap like that of corrections; `reviews` are reviewers' feedback ids, not capped."""
    capped = [one for one in rated if one.new and one.feedback_id not in reviews]
    counts = Counter(one.rater for one in capped)
    cap = lowest_cap(counts.values(), sum(one.new for one in rated) - len(capped), settings)
    spent: Counter[str | None] = Counter()
    kept = []
    for one in rated:
        if one.new and one.feedback_id not in reviews:
            spent[one.rater] += 1
            if spent[one.rater] > cap:
                continue
        kept.append(one)
    over = [count - cap for count in counts.values() if count > cap]
    return kept, HeldBack(cap, len(over), sum(over))
