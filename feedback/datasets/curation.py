"""Curation: which corrections become training examples, and whom to believe. Pure rules over plain records.

A failing answer is never a target here: targets are corrections from an accepted source, and in the replay beside them
answers that were rated well and base examples (invariant 2).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feedback.datasets.chat import Conversation, Messages, content_hash
from feedback.datasets.contract import TaskContract, same_answer
from feedback.datasets.splits import Side
from feedback.datasets.votes import REVIEWER, believed
from feedback.errors import DataRefusedError
from feedback.settings import Dataset


class Signal(NamedTuple):
    """One rater's current word on an inference."""

    feedback_id: str
    rater: str
    source: str
    rating: int | None
    correction: str | None


@dataclass(frozen=True)
class Said:
    """A production answer with all that was said about it."""

    inference_id: str
    messages: Messages
    output: str
    group_key: str
    side: Side | None
    """What group and user agree on; None where they do not, and the row is used for nothing."""
    signals: tuple[Signal, ...]
    finish_reason: str | None = "stop"
    resolution: str | None = None
    """What a person did with its failure case: `corrected`, `accepted` (it was right) or `dismissed`."""
    reviewed_answer: str | None = None
    reviewed_by: str | None = None


class BaseExample(NamedTuple):
    """A conversation that came with the model, with its group and side."""

    conversation: Conversation
    group_key: str
    side: Side | None
    import_id: str | None = None


@dataclass(frozen=True)
class Example:
    """One training row and where it comes from."""

    messages: Messages
    answer: str
    source: str
    """`correction` (a user's), `reviewer`, `replay` (a well-rated answer), `import` or `base`."""
    group_key: str
    content_hash: str
    """Identity of the row: prompt and answer."""
    new: bool = False
    inference_id: str | None = None
    feedback_id: str | None = None
    rater: str | None = None
    import_id: str | None = None


@dataclass(frozen=True)
class HeldBack:
    """What the rater cap did."""

    cap: int | None = None
    """Most new examples of one rater; None with the guard off."""
    raters: int = 0
    corrections: int = 0


@dataclass(frozen=True)
class Corrections:
    """Targets that somebody wrote, and what was left out for which reason."""

    examples: list[Example]
    dropped: dict[str, int] = field(default_factory=dict)
    held: HeldBack = HeldBack()

    @property
    def new(self) -> list[Example]:
        """Those that the champion has not learned from."""
        return [example for example in self.examples if example.new]


def choose_corrections(
    said: Sequence[Said],
    judging: Collection[str],
    learned: Collection[str],
    contract: TaskContract,
    settings: Dataset,
    guards_off: Collection[str],
    imported: Sequence[Example] = (),
) -> Corrections:
    """The corrections to train on, at most one for each prompt group, from answers given oldest first.

    `judging` are the groups that cases are made of, `learned` the content hashes that the champion was trained on.
    `imported` are rows to learn from files: they stand beside the corrections, except where there is one for their group.
    Raises `DataRefusedError`, in words an operator can act on, when too few are new; `guards_off` may hold `raters`
    and `size`. Without any new one there is nothing to train, whatever guards are off.
    """
    dropped: Counter[str] = Counter()
    settled = _settled(_offers(said, judging, learned, contract, dropped), dropped)
    held = HeldBack()
    if "raters" not in guards_off:
        settled, held = _capped(settled, settings)
    corrected = {example.group_key for example in settled}
    fitting = [example for example in imported if example.group_key not in corrected]
    dropped["imported, where a correction stands"] += len(imported) - len(fitting)
    settled += fitting
    chosen = Corrections(settled, {why: count for why, count in dropped.items() if count}, held)
    least = 1 if "size" in guards_off else settings.minimum_new
    if len(chosen.new) < least:
        raise DataRefusedError(_too_few(chosen, least, settings))
    return chosen


def _offers(
    said: Sequence[Said],
    judging: Collection[str],
    learned: Collection[str],
    contract: TaskContract,
    dropped: Counter[str],
) -> dict[str, list[Example]]:
    """Every correction that could be a target, by group, oldest first."""
    offers: dict[str, list[Example]] = defaultdict(list)
    for one in said:
        written: list[tuple[str | None, str, str, str]] = [
            (signal.feedback_id, signal.source, signal.rater, signal.correction)
            for signal in one.signals
            if signal.correction
        ]
        if one.resolution in ("accepted", "dismissed"):
            dropped[f"on answers that a reviewer {one.resolution}"] += len(written)
            continue
        if one.resolution == "corrected" and one.reviewed_answer:
            written = [(None, REVIEWER, one.reviewed_by or REVIEWER, one.reviewed_answer)]
        if one.side != "train" or one.group_key in judging:
            dropped["kept apart for evaluation"] += len(written)
            continue
        for feedback_id, source, rater, text in written:
            answer = text.strip()
            if not contract.valid(answer):
                dropped["against the task contract"] += 1
            elif same_answer(answer, one.output):
                dropped["equal to the answer given"] += 1
            else:
                identity = content_hash(one.messages, answer)
                offers[one.group_key].append(
                    Example(
                        messages=one.messages,
                        answer=answer,
                        source=REVIEWER if source == REVIEWER else "correction",
                        group_key=one.group_key,
                        content_hash=identity,
                        new=identity not in learned,
                        inference_id=one.inference_id,
                        feedback_id=feedback_id,
                        rater=rater,
                    )
                )
    return offers


def _settled(offers: dict[str, list[Example]], dropped: Counter[str]) -> list[Example]:
    """One target for each group, oldest first."""
    settled = []
    for examples in offers.values():
        target = believed(examples)
        if target is None:
            dropped["of raters who disagree"] += len(examples)
        else:
            dropped["older or outvoted in their group"] += len(examples) - 1
            settled.append(target)
    return sorted(settled, key=_age)


def _age(example: Example) -> tuple[str, str]:
    # Ids are UUIDv7: they sort by the time at which they were made.
    return example.feedback_id or example.inference_id or "", example.content_hash


def _capped(candidates: Sequence[Example], settings: Dataset) -> tuple[list[Example], HeldBack]:
    """Keep each rater's oldest new corrections up to a cap. A reviewer's are not capped: a key was made for that.

    The cap is a share of what is kept, not of what was sent: a share of what was sent would grow with every
    correction that a flooding rater adds. Rising from the minimum, it is the lowest cap that is the share of what
    passes it.
    """
    counts = Counter(one.rater for one in candidates if one.new and one.source != REVIEWER)
    trusted = sum(one.new and one.source == REVIEWER for one in candidates)
    cap = settings.rater_minimum
    while True:
        kept = trusted + sum(min(count, cap) for count in counts.values())
        wider = int(settings.rater_share * kept)
        if wider <= cap:
            break
        cap = wider
    room = dict.fromkeys(counts, cap)
    stays = []
    for example in candidates:
        if example.new and example.source != REVIEWER:
            if room[example.rater] == 0:
                continue
            room[example.rater] -= 1
        stays.append(example)
    over = [count - cap for count in counts.values() if count > cap]
    return stays, HeldBack(cap, len(over), sum(over))


def _too_few(chosen: Corrections, least: int, settings: Dataset) -> str:
    new, held = len(chosen.new), chosen.held
    told = f"{new} new example{'' if new == 1 else 's'}"
    if held.corrections:
        told += (
            f" after the rater cap ({held.corrections} correction{'' if held.corrections == 1 else 's'} held back from "
            f"{held.raters} rater{'' if held.raters == 1 else 's'} above the cap of {held.cap} each)"
        )
    told += f"; at least {least} {'is' if least == 1 else 'are'} needed, so nothing was trained."
    others = ", ".join(f"{count} {why}" for why, count in chosen.dropped.items())
    if others:
        told += f" Corrections left out besides: {others}."
    return f"{told} Collect more corrections" + (
        f", or lower [dataset] minimum_new ({settings.minimum_new})." if least > 1 else "."
    )
