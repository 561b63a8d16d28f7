"""Pairs that people chose side by side: of two answers to one prompt, the one they found better. Pure.

A preference says that one answer is better, not that it is right: so it makes a pair to learn from, and never a target of
its own. A pair is left out where its better answer failed by what else was said of it (invariant 2).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from feedback.datasets.chat import content_hash
from feedback.datasets.contract import TaskContract
from feedback.datasets.methods import PREFERENCE
from feedback.datasets.raters import BAD, Trust
from feedback.datasets.said import Pair, Said
from feedback.datasets.votes import key_of


def with_preferences(
    pairs: Sequence[Pair],
    said: Sequence[Said],
    targets: Mapping[str, str],
    contract: TaskContract,
    trust: Trust,
    cap: int | None,
) -> list[Pair]:
    """The pairs, and one for each two answers of which raters, by belief, preferred the same one.

    `said` are the answers that may be trained on, `targets` the right answer of each group that has one, `cap` the most
    preferences of one rater that count, oldest first (None: all).
    """
    found = {pair.content_hash: pair for pair in pairs}
    for pair in _preferred(said, targets, contract, trust, cap):
        found.setdefault(pair.content_hash, pair)
    return list(found.values())


def _preferred(
    said: Sequence[Said],
    targets: Mapping[str, str],
    contract: TaskContract,
    trust: Trust,
    cap: int | None,
) -> list[Pair]:
    answers = {one.inference_id: one for one in said}
    votes: dict[tuple[str, str, str], float] = defaultdict(float)
    offered: dict[tuple[str, str, str], Pair] = {}
    spent: Counter[str] = Counter()
    for better in said:
        for signal in better.signals:
            worse = answers.get(signal.preferred_over or "")
            if worse is None or not _comparable(better, worse):
                continue
            if signal.feedback_id in trust.held or trust.low(signal.rater):
                continue
            if cap is not None and signal.source == "user" and spent[signal.rater] >= cap:
                continue
            spent[signal.rater] += 1
            prompt = content_hash(better.messages, "", better.tools)
            key = (prompt, key_of(better.output), key_of(worse.output))
            votes[key] += trust.of(signal.rater)
            target = targets.get(better.group_key)
            if _failed(better, contract) or (target is not None and key_of(target) == key_of(worse.output)):
                continue
            offered.setdefault(
                key,
                Pair(
                    better.messages,
                    better.output,
                    worse.output,
                    PREFERENCE,
                    better.group_key,
                    worse.inference_id,
                    signal.feedback_id,
                    signal.rater,
                    tools=better.tools,
                ),
            )
    return [
        pair
        for (prompt, better_key, worse_key), pair in offered.items()
        if votes[prompt, better_key, worse_key] > votes.get((prompt, worse_key, better_key), 0.0)
    ]


def _comparable(better: Said, worse: Said) -> bool:
    """Two different answers to the same conversation: a preference across prompts says nothing."""
    return (
        (better.messages, better.tools) == (worse.messages, worse.tools)
        and bool(worse.output.strip())
        and key_of(better.output) != key_of(worse.output)
    )


def _failed(one: Said, contract: TaskContract) -> bool:
    return (
        not one.whole
        or not contract.valid(one.output, one.messages, one.tools)
        or one.resolution in ("corrected", "dismissed")
        or any(signal.correction or (signal.rating or BAD + 1) <= BAD for signal in one.signals)
    )
