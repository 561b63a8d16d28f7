"""Curation: which corrections become training examples, whom to believe, and what is replayed beside them.

Pure rules over plain records. A failing answer is never a target here: targets are corrections from an accepted
source, answers that were rated well, and base examples (invariant 2).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from feedback.datasets.chat import Conversation, Messages, content_hash
from feedback.datasets.contract import TaskContract
from feedback.errors import DataRefusedError
from feedback.settings import Dataset

REVIEWER = "reviewer"
LEAST_REPLAY = 0.5
"""Replayed examples per new one below which old skill was measured to be lost."""


@dataclass(frozen=True)
class Signal:
    """One rater's current word on an inference."""

    feedback_id: str
    rater: str
    source: str
    rating: int | None
    correction: str | None


@dataclass(frozen=True)
class Said:
    """A production answer on the training side, with all that was said about it."""

    inference_id: str
    messages: Messages
    output: str
    prompt_hash: str
    group_key: str
    signals: tuple[Signal, ...]
    resolution: str | None = None
    """What a reviewer did with its failure case: `corrected`, `accepted` or `dismissed`."""
    reviewed_answer: str | None = None
    reviewed_by: str | None = None


@dataclass(frozen=True)
class Example:
    """One training row and where it comes from."""

    messages: Messages
    answer: str
    source: str
    """`correction` (a user's), `reviewer`, `replay` (a well-rated answer) or `base`."""
    group_key: str
    new: bool = False
    inference_id: str | None = None
    feedback_id: str | None = None
    rater: str | None = None

    @property
    def content_hash(self) -> str:
        """Identity of the row: prompt and answer."""
        return content_hash(self.messages, self.answer)


@dataclass(frozen=True)
class Curated:
    """What training gets, and what was left out for which reason."""

    corrections: list[Example]
    replay: list[Example]
    dropped: dict[str, int]

    @property
    def new(self) -> list[Example]:
        """Corrections that the champion has not learned from."""
        return [example for example in self.corrections if example.new]


def curate(
    said: Sequence[Said],
    base: Sequence[tuple[Conversation, str]],
    learned: Collection[str],
    contract: TaskContract,
    settings: Dataset,
    guards_off: Collection[str],
) -> Curated:
    """Choose examples from the training side's answers, and replay from well-rated ones and `base` examples.

    `base` pairs conversations with their group; `learned` are the content hashes that the champion was trained on.
    Raises `DataRefusedError` in words an operator can act on, when there is too little to train on, or too little to
    replay. `guards_off` switches `raters`, `size` or `replay` off.
    """
    dropped: Counter[str] = Counter()
    candidates = _settled(_candidates(said, learned, contract, dropped), dropped)
    corrections, over = candidates, Counter[str]()
    cap = len(candidates)
    if "raters" not in guards_off:
        corrections, cap, over = _capped(candidates, settings)
        if over:
            dropped["above the rater cap"] = over.total()
    new = sum(example.new for example in corrections)
    if "size" not in guards_off and new < settings.minimum_new:
        raise DataRefusedError(_too_few(new, cap, over, dropped, settings))
    return Curated(
        corrections, _replayed(said, base, corrections, contract, settings, guards_off), dict(dropped)
    )


def _candidates(
    said: Sequence[Said], learned: Collection[str], contract: TaskContract, dropped: Counter[str]
) -> list[tuple[str, Example]]:
    """Every correction that could be a target, with its prompt's hash, oldest first."""
    found = []
    for one in said:
        if one.resolution in ("accepted", "dismissed"):
            dropped[f"failure case {one.resolution} by a reviewer"] += any(s.correction for s in one.signals)
            continue
        offers: list[tuple[str | None, str, str, str]] = [
            (s.feedback_id, s.source, s.rater, s.correction) for s in one.signals if s.correction
        ]
        if one.resolution == "corrected" and one.reviewed_answer:
            offers = [(None, REVIEWER, one.reviewed_by or REVIEWER, one.reviewed_answer)]
        for feedback_id, source, rater, text in offers:
            answer = text.strip()
            if (problem := contract.problem(answer)) is not None:
                dropped[f"correction {problem.partition(':')[0]}"] += 1
            elif answer == one.output.strip():
                dropped["correction equals the answer"] += 1
            else:
                example = Example(
                    messages=one.messages,
                    answer=answer,
                    source=REVIEWER if source == REVIEWER else "correction",
                    group_key=one.group_key,
                    new=content_hash(one.messages, answer) not in learned,
                    inference_id=one.inference_id,
                    feedback_id=feedback_id,
                    rater=rater,
                )
                found.append((one.prompt_hash, example))
    return sorted(found, key=lambda pair: (pair[1].feedback_id or pair[1].inference_id or "", pair[1].answer))


def _settled(candidates: Sequence[tuple[str, Example]], dropped: Counter[str]) -> list[Example]:
    """One target for each prompt: a reviewer's word first, else what most raters say, else none."""
    by_prompt: dict[str, list[Example]] = defaultdict(list)
    for prompt, example in candidates:
        by_prompt[prompt].append(example)
    settled = []
    for examples in by_prompt.values():
        trusted = [example for example in examples if example.source == REVIEWER]
        if trusted:
            settled.append(trusted[-1])
            continue
        votes: dict[str, set[str | None]] = defaultdict(set)
        for example in examples:
            votes[example.answer].add(example.rater)
        most = max(len(raters) for raters in votes.values())
        winners = [answer for answer, raters in votes.items() if len(raters) == most]
        if len(winners) > 1:
            dropped["raters disagree about the right answer"] += len(examples)
        else:
            settled.append(next(example for example in examples if example.answer == winners[0]))
    return settled


def _capped(candidates: Sequence[Example], settings: Dataset) -> tuple[list[Example], int, Counter[str]]:
    """Bound each rater's new corrections; returns what stays, the cap, and how many are over it by rater.

    The cap is a share of what is kept, not of what was sent: a share of what was sent would grow with every
    correction that a flooding rater adds. It is found by rising from the minimum until it no longer changes.
    """
    counts = Counter(e.rater for e in candidates if e.new and e.source != REVIEWER)
    trusted = sum(e.new and e.source == REVIEWER for e in candidates)
    cap = settings.rater_minimum
    while True:
        kept = trusted + sum(min(count, cap) for count in counts.values())
        wider = max(settings.rater_minimum, int(settings.rater_share * kept))
        if wider <= cap:
            break
        cap = wider
    room = dict.fromkeys(counts, cap)
    stays, over = [], Counter[str]()
    for example in candidates:
        if example.new and example.source != REVIEWER:
            if room[example.rater] == 0:
                over[str(example.rater)] += 1
                continue
            room[example.rater] -= 1
        stays.append(example)
    return stays, cap, over


def _too_few(new: int, cap: int, over: Counter[str], dropped: Counter[str], settings: Dataset) -> str:
    held = ""
    if over:
        raters = f"{len(over)} rater{'s' if len(over) > 1 else ''}"
        held = f" after the rater cap ({over.total()} corrections held back from {raters} above the cap of {cap} each)"
    others = ", ".join(
        f"{count} {why}" for why, count in sorted(dropped.items()) if why != "above the rater cap" and count
    )
    left_out = f" Left out besides: {others}." if others else ""
    return (
        f"{new} new example{'' if new == 1 else 's'}{held}; at least {settings.minimum_new} are needed, so nothing was "
        f"trained.{left_out} Collect more corrections, or lower [dataset] minimum_new."
    )


def _replayed(
    said: Sequence[Said],
    base: Sequence[tuple[Conversation, str]],
    corrections: Sequence[Example],
    contract: TaskContract,
    settings: Dataset,
    guards_off: Collection[str],
) -> list[Example]:
    """Old skill to keep: base examples and well-rated answers, in an order fixed by their content."""
    if "replay" not in guards_off and settings.replay < LEAST_REPLAY:
        raise DataRefusedError(
            f"[dataset] replay is {settings.replay}; below {LEAST_REPLAY} per new example the model forgets what it "
            "knew. Raise it, or switch the guard off by name"
        )
    taught = {example.content_hash for example in corrections}
    corrected = {example.group_key for example in corrections}
    pool = [
        Example(conversation.messages, conversation.answer, "base", group)
        for conversation, group in base
        if group not in corrected
    ]
    pool += _well_rated(said, corrected, contract)
    unique = {example.content_hash: example for example in pool if example.content_hash not in taught}
    wanted = round(settings.replay * len(corrections))
    chosen = [unique[key] for key in sorted(unique)[:wanted]]
    if "replay" not in guards_off and len(chosen) < LEAST_REPLAY * len(corrections):
        raise DataRefusedError(
            f"there are {len(chosen)} examples to replay for {len(corrections)} corrections; at least {LEAST_REPLAY} "
            "each are needed so that old skill is kept. Add base examples ([[model]] examples) or collect ratings of 4 and 5"
        )
    return chosen


def _well_rated(said: Sequence[Said], corrected: Collection[str], contract: TaskContract) -> list[Example]:
    """Answers that all their raters gave 4 or 5, where nothing near them was rated low or corrected."""
    doubted = set(corrected)
    for one in said:
        ratings = [signal.rating for signal in one.signals if signal.rating is not None]
        if any(rating < 4 for rating in ratings) or any(signal.correction for signal in one.signals):
            doubted.add(one.group_key)
    return [
        Example(
            one.messages,
            one.output,
            "replay",
            one.group_key,
            inference_id=one.inference_id,
            feedback_id=one.signals[0].feedback_id,
            rater=one.signals[0].rater,
        )
        for one in said
        if one.group_key not in doubted
        and any(signal.rating is not None for signal in one.signals)
        and contract.valid(one.output)
    ]
