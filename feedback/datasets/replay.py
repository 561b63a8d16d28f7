"""Replay: old examples beside the new ones, so that a version keeps the skill it had. Pure rules over plain records.

Every adapter is trained afresh from the base, so all corrections are new to it, those of earlier versions too: replay
is counted against all of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any

from feedback.datasets.chat import content_hash
from feedback.datasets.contract import TaskContract, same_answer
from feedback.datasets.imported import calls_tools
from feedback.datasets.ladder import weight_of
from feedback.datasets.raters import EVERYBODY, Trust, facts_of, neighbour_facts
from feedback.datasets.said import BaseExample, Example, Said, Signal
from feedback.datasets.splits import Side
from feedback.errors import DataRefusedError
from feedback.settings import Dataset

LEAST = 0.5
"""Replayed examples per correction. With 0.1, accuracy on old intents was measured to fall from 0.996 to 0.91–0.95,
with 0.5 to 0.986, without any to 0.03."""
WELL_RATED = 4
CONTRADICTED = "well rated, against the answers to like prompts"


def choose_replay(
    said: Sequence[Said],
    base: Sequence[BaseExample],
    corrections: Sequence[Example],
    judging: Collection[str],
    contract: TaskContract,
    settings: Dataset,
    guards_off: Collection[str],
    trust: Trust = EVERYBODY,
    left_out: Counter[str] | None = None,
    worth: int = 0,
) -> list[Example]:
    """`[dataset] replay` examples per correction, and for each that ratings and preferences are `worth`, in equal parts as they last from `base`, from well-rated answers of the kinds
    that corrections teach, and from those of other kinds; each in equal parts from every kind of answer.

    `left_out` counts well-rated answers that like prompts speak against (`neighbours`). The choice follows from the examples' own hashes, so it hardly changes as data grows. Raises `DataRefusedError`
    where there is too little, unless `replay` is among `guards_off`.
    """
    guarded = "replay" not in guards_off
    if guarded and settings.replay < LEAST:
        raise DataRefusedError(
            f"[dataset] replay is {settings.replay:g}: with fewer than {LEAST} old examples for each new one a version "
            "forgets what it knew. Raise it, or switch the guard `replay` off by name."
        )
    corrected = {example.group_key for example in corrections}
    apart = {*corrected, *judging}
    left_out = Counter() if left_out is None else left_out
    taught = {contract.slice_of(example.answer) for example in corrections}
    praised = well_rated(said, "train", apart, contract, trust, left_out)
    sources = (
        _from_base(base, apart, contract),
        [example for example in praised if contract.slice_of(example.answer) in taught],
        [example for example in praised if contract.slice_of(example.answer) not in taught],
    )
    count = len(corrections) + worth
    in_turns = _in_turns([_by_kind(source, contract) for source in sources])
    unique = list({example.content_hash: example for example in in_turns}.values())
    chosen = unique[: round(settings.replay * count)]
    needed = LEAST * count
    if guarded and len(chosen) < needed:
        raise DataRefusedError(
            f"{len(chosen)} old examples to replay beside {count} {'new' if worth else 'corrected'} ones; at least {needed:g} are "
            "needed so that old skill is kept, so nothing was trained. Name a file of base examples ([[model]] "
            f"examples), collect answers rated {WELL_RATED} or 5, or switch the guard `replay` off by name."
        )
    return chosen


def _by_kind(examples: Sequence[Example], contract: TaskContract) -> list[Example]:
    """All kinds of answers in turns, each in the order of its hashes: so that rare ones are replayed too."""
    kinds: dict[str | None, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda example: example.content_hash):
        kinds[contract.slice_of(example.answer)].append(example)
    return _in_turns(list(kinds.values()))


def _in_turns(lists: Sequence[Sequence[Example]]) -> list[Example]:
    return [one for turn in zip_longest(*lists) for one in turn if one is not None]


def _from_base(base: Sequence[BaseExample], apart: Collection[str], contract: TaskContract) -> list[Example]:
    return [
        Example(
            messages=conversation.messages,
            answer=conversation.answer,
            source="import" if import_id else "base",
            group_key=group_key,
            content_hash=conversation.content_hash,
            import_id=import_id,
            tools=conversation.tools,
            why={"rung": "import" if import_id else "base"},
        )
        for conversation, group_key, side, import_id, _ in base
        if side == "train"
        and group_key not in apart
        and (calls_tools(conversation) or contract.valid(conversation.answer, conversation.messages))
    ]


def well_rated(
    said: Sequence[Said],
    side: Side,
    apart: Collection[str],
    contract: TaskContract,
    trust: Trust,
    left_out: Counter[str],
) -> list[Example]:
    """Answers of a side that a believed rater gave 4 or 5 or a reviewer accepted, where nobody who is believed, on either
    side, doubted one like it and like prompts do not speak against it. `apart` are groups to leave out."""
    doubted = doubted_groups(said, trust)
    found = []
    for one in said:
        praise = [
            signal
            for signal in one.signals
            if signal.rating is not None and signal.rating >= WELL_RATED and _counts(signal, trust)
        ]
        if not praise and one.resolution != "accepted":
            continue
        if one.side != side or one.group_key in doubted or one.group_key in apart:
            continue
        if not one.whole or not contract.valid(one.output, one.messages, one.tools):
            continue
        if praise and one.resolution != "accepted":
            praise = [signal for signal in praise if not trust.contradicted(signal.feedback_id)]
            if not praise:
                left_out[CONTRADICTED] += 1
                continue
        found.append(
            Example(
                messages=one.messages,
                answer=one.output,
                source="replay",
                group_key=one.group_key,
                content_hash=content_hash(one.messages, one.output, one.tools),
                tools=one.tools,
                inference_id=one.inference_id,
                feedback_id=praise[0].feedback_id if praise else None,
                rater=praise[0].rater if praise else one.reviewed_by,
                weight=weight_of({signal.rater for signal in praise}, trust) if praise else 1.0,
                why=_why(praise, trust),
            )
        )
    return found


def doubted_groups(said: Sequence[Said], trust: Trust) -> set[str]:
    """Prompt groups of which somebody who is believed found an answer wanting."""
    return {one.group_key for one in said if _doubted(one, trust)}


def _why(praise: Sequence[Signal], trust: Trust) -> dict[str, Any]:
    if not praise:
        return {"rung": "replay", "accepted_by": "a reviewer"}
    rater = {"rater": facts_of(trust, praise[0].rater)} if trust.guarded else {}
    stars = [signal.rating for signal in praise]
    return {"rung": "replay", "stars": stars, **rater, **neighbour_facts(trust, praise[0].feedback_id)}


def _counts(signal: Signal, trust: Trust) -> bool:
    return not trust.low(signal.rater) and signal.feedback_id not in trust.held


def _doubted(one: Said, trust: Trust) -> bool:
    if one.resolution == "accepted":  # a reviewer looked at the complaint and found the answer right
        return False
    return one.resolution is not None or any(
        (signal.correction and not same_answer(signal.correction, one.output))
        or (signal.rating is not None and signal.rating < WELL_RATED)
        for signal in one.signals
        if _counts(signal, trust)
    )
