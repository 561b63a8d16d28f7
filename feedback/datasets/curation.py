"""Curation: which corrections become training examples, and whom to believe. Pure rules over plain records.

A failing answer is never a target here: targets are corrections from an accepted source and better-rated answers to like
prompts (`ladder`), and in the replay beside them answers that were rated well and base examples (invariant 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from feedback.datasets.contract import TaskContract
from feedback.datasets.ladder import Accepted, climb
from feedback.datasets.preferences import with_preferences
from feedback.datasets.raters import EVERYBODY, Trust, judge_raters
from feedback.datasets.said import BaseExample, Example, Pair, Said, Signal
from feedback.errors import DataRefusedError
from feedback.settings import Dataset

__all__ = ["BaseExample", "Corrections", "Example", "HeldBack", "Said", "Signal", "choose_corrections"]

SELF_GENERATED = ("teacher", "best-of-n")


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
    waits: dict[str, str] = field(default_factory=dict)
    """By inference id: why its correction, or it without one, taught nothing."""
    pairs: list[Pair] = field(default_factory=list)

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
    trust: Trust | None = None,
    accepted: Mapping[str, Accepted] | None = None,
) -> Corrections:
    """The corrections to train on, at most one for each prompt group, from answers given oldest first.

    `judging` are the groups that cases are made of, `learned` the content hashes that the champion was trained on;
    `trust` says whom to believe (found from what was said where it is not given), `accepted` are candidates by inference.
    `guards_off` may hold `raters`. Too few are refused by `refuse_too_few`.
    """
    guarded = "raters" not in guards_off
    if not guarded:
        trust = EVERYBODY
    elif trust is None:
        trust = judge_raters(said, (), contract, settings.low_reliability)
    targets = climb(said, judging, learned, contract, trust, guarded and settings.corroborate, accepted)
    settled, held = targets.examples, HeldBack()
    settled = _self_generated(settled, settings, targets.dropped, targets.waits)
    if guarded:
        settled, held = _capped(settled, settings, targets.waits)
    kept = {example.group_key for example in settled}
    return Corrections(
        settled,
        {why: count for why, count in targets.dropped.items() if count},
        held,
        targets.waits,
        with_preferences(
            [pair for pair in targets.pairs if pair.group_key in kept],
            [one for one in said if one.side == "train" and one.group_key not in judging],
            {example.group_key: example.answer for example in targets.examples},
            contract,
            trust,
            held.cap,
        ),
    )


def refuse_too_few(
    chosen: Corrections, settings: Dataset, guards_off: Collection[str], worth: int = 0, besides: str = ""
) -> None:
    """Raise `DataRefusedError`, in words an operator can act on, when too few are new.

    `worth` is what ratings and preferences count for, `besides` what is said of them. `size` among `guards_off` takes any
    number but none: without any new one there is nothing to train.
    """
    least = 1 if "size" in guards_off else settings.minimum_new
    if len(chosen.new) + worth < least:
        raise DataRefusedError(_too_few(chosen, least, settings, worth, besides))


def _self_generated(
    settled: Sequence[Example], settings: Dataset, dropped: Counter[str], waits: dict[str, str]
) -> list[Example]:
    """Keep what models wrote down to a share of all targets, oldest first: what people wrote keeps data from collapsing
    (arXiv 2404.01413)."""
    people = sum(example.source not in SELF_GENERATED for example in settled)
    share = settings.self_generated
    room = len(settled) if share >= 1 else int(people * share / (1 - share))
    stays = []
    for example in settled:
        if example.source in SELF_GENERATED:
            if not room:
                dropped["models wrote, above [dataset] self_generated"] += 1
                waits[example.inference_id or ""] = (
                    f"models wrote the share of the targets that they may already ([dataset] self_generated, {share:.0%})"
                )
                continue
            room -= 1
        stays.append(example)
    return stays


def lowest_cap(counts: Collection[int], trusted: int, settings: Dataset) -> int:
    """Most new examples of one rater, of raters with so many each and `trusted` ones of nobody who is capped.

    It is a share of what is kept, not of what was sent: a share of what was sent would grow with every example that a
    flooding rater adds. Rising from the minimum, it is the lowest cap that is the share of what passes it.
    """
    cap = settings.rater_minimum
    while True:
        kept = trusted + sum(min(count, cap) for count in counts)
        wider = int(settings.rater_share * kept)
        if wider <= cap:
            return cap
        cap = wider


def _capped(
    candidates: Sequence[Example], settings: Dataset, waits: dict[str, str]
) -> tuple[list[Example], HeldBack]:
    """Keep each rater's oldest new corrections up to a cap. A reviewer's are not capped: a key was made for that."""
    counts = Counter(one.rater for one in candidates if one.new and one.source in _CAPPED)
    trusted = sum(one.new and one.source not in _CAPPED for one in candidates)
    cap = lowest_cap(counts.values(), trusted, settings)
    room = dict.fromkeys(counts, cap)
    stays = []
    for example in candidates:
        if example.new and example.source in _CAPPED:
            if room[example.rater] == 0:
                waits[example.inference_id or ""] = (
                    f"its rater has as many new examples as one may have already ({cap}; [dataset] rater_share)"
                )
                continue
            place = cap - room[example.rater] + 1
            room[example.rater] -= 1
            example = replace(example, why=example.why | {"cap": {"cap": cap, "place": place}})
        stays.append(example)
    over = [count - cap for count in counts.values() if count > cap]
    return stays, HeldBack(cap, len(over), sum(over))


_CAPPED = ("correction", "sibling")


def _too_few(chosen: Corrections, least: int, settings: Dataset, worth: int, besides: str) -> str:
    new, held = len(chosen.new), chosen.held
    told = f"{new} new example{'' if new == 1 else 's'}"
    if held.corrections:
        told += (
            f" after the rater cap ({held.corrections} correction{'' if held.corrections == 1 else 's'} held back from "
            f"{held.raters} rater{'' if held.raters == 1 else 's'} above the cap of {held.cap} each)"
        )
    if worth:
        told += f", and ratings or preferences that count for {worth}"
    told += f"; at least {least} {'is' if least == 1 else 'are'} needed, so nothing was trained."
    others = ", ".join(f"{count} {why}" for why, count in chosen.dropped.items())
    if others:
        told += f" Corrections left out besides: {others}."
    if besides:
        told += f" {besides}"
    return f"{told} Collect more corrections" + (
        f", or lower [dataset] minimum_new ({settings.minimum_new})." if least > 1 else "."
    )
