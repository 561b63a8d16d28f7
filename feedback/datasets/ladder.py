"""The source ladder: what may be the right answer to a prompt, and who stands for it. Pure.

A reviewer's correction, else a user's (a demonstration), else a better-rated answer to the same or a near-duplicate prompt
(a sibling), else an accepted candidate. One target for each prompt group at most; what passes no rung waits, with the
reason in words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from feedback.datasets.chat import content_hash
from feedback.datasets.contract import TaskContract
from feedback.datasets.raters import BAD, GOOD, Trust, facts_of, neighbour_facts
from feedback.datasets.said import Example, Pair, Said, Signal
from feedback.datasets.votes import REVIEWER, Count, count_votes, key_of

BETTER = 2.0
"""Stars that a sibling has to be ahead of the answer that failed."""
LEAST_WEIGHT = 0.1
CONTRADICTED = "against the answers to like prompts"
NOTHING_SAID = "a low rating and nothing else: no correction, and no better-rated answer to a prompt like it"


class Accepted(NamedTuple):
    """A candidate that may be trained on: a proposed answer to an inference that failed."""

    answer: str
    source: str
    """`teacher` or `best-of-n`."""
    why: dict[str, Any]


class Offer(NamedTuple):
    """One rater's word on what the right answer in a group is."""

    rater: str | None
    source: str
    answer: str
    one: Said
    feedback_id: str | None
    correction: bool
    """False where an answer that was given is praised."""


@dataclass
class Targets:
    """What the ladder let through, and what it did not."""

    examples: list[Example] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    waits: dict[str, str] = field(default_factory=dict)
    """By inference id: why its correction, or it without one, is in no dataset."""


def climb(
    said: Sequence[Said],
    judging: Collection[str],
    learned: Collection[str],
    contract: TaskContract,
    trust: Trust,
    corroborate: bool = False,
    accepted: Mapping[str, Accepted] | None = None,
) -> Targets:
    """At most one target for each prompt group, oldest first, from answers given oldest first.

    `judging` are the groups that cases are made of, `learned` the content hashes that the champion was trained on,
    `accepted` the candidates by inference id.
    """
    targets = Targets()
    offers: dict[tuple[str, str], list[Offer]] = defaultdict(list)
    rows: dict[tuple[str, str], list[Said]] = defaultdict(list)
    for one in said:
        place = one.group_key, one.place
        offers[place] += _offers(one, judging, contract, trust, targets)
        if (
            one.side == "train"
            and one.group_key not in judging
            and one.resolution not in ("accepted", "dismissed")
        ):
            rows[place].append(one)
    for place, asked in rows.items():
        target, reason = _settled(offers[place], targets, contract, trust, corroborate)
        if target is None and reason is None:
            target, reason = _sibling(asked, contract, trust), NOTHING_SAID
        if target is None:
            target = _candidate(asked, accepted or {}, contract)
        if target is not None:
            targets.examples.append(replace(target, new=target.content_hash not in learned))
            targets.pairs += _pairs(target, asked, contract)
        for one in asked:
            why = _waits(one, target, reason or "")
            if why:
                targets.waits.setdefault(one.inference_id, why)
    targets.examples.sort(key=_age)
    return targets


def _offers(
    one: Said, judging: Collection[str], contract: TaskContract, trust: Trust, targets: Targets
) -> list[Offer]:
    """Every correction of an answer that could be a target, and praise of the answer where raters are weighed."""
    written = [
        Offer(signal.rater, signal.source, signal.correction, one, signal.feedback_id, True)
        for signal in one.signals
        if signal.correction
    ]
    if one.resolution in ("accepted", "dismissed"):
        targets.dropped[f"on answers that a reviewer {one.resolution}"] += len(written)
        return []
    if one.resolution == "corrected" and one.reviewed_answer:
        by = one.reviewed_by or REVIEWER
        written = [Offer(by, REVIEWER, one.reviewed_answer, one, None, True)]
    if one.side != "train" or one.group_key in judging:
        targets.dropped["kept apart for evaluation"] += len(written)
        return []
    found = []
    for offer in written:
        answer = offer.answer.strip()
        problem = contract.problem(answer, one.messages, one.tools)
        if problem is not None:
            targets.dropped["against the task contract"] += 1
            targets.waits[one.inference_id] = f"its correction breaks the task contract: it {problem}"
        elif _same(answer, one.output):
            targets.dropped["equal to the answer given"] += 1
        elif offer.feedback_id in trust.held:
            targets.dropped["held for review: many new raters on one target"] += 1
            targets.waits[one.inference_id] = _doubt(offer, trust)
        elif trust.contradicted(offer.feedback_id):
            targets.dropped[CONTRADICTED] += 1
            targets.waits[one.inference_id] = trust.neighbours[offer.feedback_id or ""].why
        else:
            found.append(offer._replace(answer=answer))
    if trust.guarded and _fit(one, contract) and contract.slice_of(one.output) is not None:
        found += [
            Offer(signal.rater, signal.source, one.output, one, signal.feedback_id, False)
            for signal in one.signals
            if (signal.rating or 0) >= GOOD and not signal.correction and _usable(signal, trust)
        ]
    return found


def _settled(
    offers: Sequence[Offer], targets: Targets, contract: TaskContract, trust: Trust, corroborate: bool
) -> tuple[Example | None, str | None]:
    """The group's target among what was written, or why there is none; neither where nothing was written."""
    corrections = [offer for offer in offers if offer.correction]
    if not corrections:
        return None, None
    reviewed = [offer for offer in corrections if offer.source == REVIEWER]
    count = count_votes(
        reviewed or offers, lambda offer: 0.0 if trust.low(offer.rater) else trust.of(offer.rater)
    )
    winner = count.winner
    if winner is None:
        doubted = corrections[-1]
        if count.doubted:
            targets.dropped["of raters whose reliability is low"] += len(corrections)
            return None, _doubt(doubted, trust)
        targets.dropped["of raters who disagree"] += len(corrections)
        return (
            None,
            f"raters disagree on the right answer ({count.belief:.1f} against {count.against:.1f} in belief)",
        )
    backing = {o.rater for o in offers if _same(o.answer, winner.answer) and not trust.low(o.rater)}
    if not winner.correction:
        agreeing = [o for o in corrections if _same(o.answer, winner.answer)]
        if not agreeing:
            targets.dropped["against an answer that others rated well"] += len(corrections)
            return None, (
                f"{count.raters} raters found another answer to this prompt right "
                f"({count.belief:.1f} against {count.against:.1f} in belief)"
            )
        winner = agreeing[-1]
    if corroborate and not count.reviewed and len(backing) < 2:
        targets.dropped["of one rater alone ([dataset] corroborate)"] += len(corrections)
        return None, "it waits for a second rater or a reviewer ([dataset] corroborate)"
    targets.dropped["older or outvoted in their group"] += len(corrections) - 1
    return _example(winner, count, backing, trust), None


def _example(winner: Offer, count: Count[Offer], backing: Collection[str | None], trust: Trust) -> Example:
    reviewed = winner.source == REVIEWER
    why: dict[str, Any] = {
        "rung": "reviewer" if reviewed else "demonstration",
        "votes": {
            "raters": count.raters,
            "belief": round(count.belief, 3),
            "against": round(count.against, 3),
        },
    }
    if trust.guarded and not reviewed:
        why["rater"] = facts_of(trust, winner.rater)
        why |= neighbour_facts(trust, winner.feedback_id)
    return Example(
        messages=winner.one.messages,
        answer=winner.answer,
        source=REVIEWER if reviewed else "correction",
        group_key=winner.one.group_key,
        content_hash=content_hash(winner.one.messages, winner.answer, winner.one.tools),
        tools=winner.one.tools,
        inference_id=winner.one.inference_id,
        feedback_id=winner.feedback_id,
        rater=winner.rater,
        weight=1.0 if reviewed else weight_of(backing, trust),
        why=why,
    )


def weight_of(raters: Collection[str | None], trust: Trust) -> float:
    """Weight of a row that these raters stand for: 1 for the crowd's reliability and above, less below it."""
    doubt = 1.0
    for rater in raters:
        doubt *= 1.0 - min(1.0, trust.of(rater) / trust.crowd)
    return round(max(LEAST_WEIGHT, 1.0 - doubt), 3)


def _sibling(asked: Sequence[Said], contract: TaskContract, trust: Trust) -> Example | None:
    """The best-rated answer of a group as the target of the newest one that failed, where it is clearly better."""
    stars: dict[str, list[tuple[int, str, Said, str]]] = defaultdict(list)
    for one in asked:
        for signal in one.signals:
            if signal.rating is not None and _usable(signal, trust) and not trust.low(signal.rater):
                row = (signal.rating or 0, signal.rater, one, signal.feedback_id)
                stars[key_of(one.output)].append(row)
    means = {key: sum(row[0] for row in given) / len(given) for key, given in stars.items()}
    if len(means) < 2:
        return None
    best = max(means, key=lambda key: (means[key], key))
    failed = [one for key in means if means[key] <= means[best] - BETTER for *_, one, _ in stars[key]]
    praise = [row for row in stars[best] if row[0] >= GOOD and _fit(row[2], contract)]
    if means[best] < GOOD or not failed or not praise:
        return None
    of = max(failed, key=lambda one: one.inference_id)
    _, rater, better, feedback_id = praise[-1]
    worst = means[key_of(of.output)]
    return Example(
        messages=of.messages,
        answer=better.output,
        source="sibling",
        group_key=of.group_key,
        content_hash=content_hash(of.messages, better.output, of.tools),
        tools=of.tools,
        inference_id=of.inference_id,
        feedback_id=feedback_id,
        rater=rater,
        weight=weight_of({row[1] for row in praise}, trust),
        why={
            "rung": "sibling",
            "stars": {
                "better": round(means[best], 2),
                "failed": round(worst, 2),
                "ratings": len(stars[best]),
            },
            "better_inference": better.inference_id,
            **({"rater": facts_of(trust, rater)} if trust.guarded else {}),
        },
    )


def _candidate(
    asked: Sequence[Said], accepted: Mapping[str, Accepted], contract: TaskContract
) -> Example | None:
    for one in reversed(asked):
        found = accepted.get(one.inference_id)
        fits = found is not None and contract.valid(found.answer, one.messages, one.tools)
        if found is not None and fits and not _same(found.answer, one.output):
            return Example(
                messages=one.messages,
                answer=found.answer,
                source=found.source,
                group_key=one.group_key,
                content_hash=content_hash(one.messages, found.answer, one.tools),
                tools=one.tools,
                inference_id=one.inference_id,
                why={"rung": found.source, **found.why},
            )
    return None


def _pairs(target: Example, asked: Sequence[Said], contract: TaskContract) -> list[Pair]:
    """The target against each distinct answer of the group that failed."""
    found: dict[str, Pair] = {}
    for one in asked:
        key = key_of(one.output)
        failed = (
            _complained(one) or any(signal.correction for signal in one.signals) or one.resolution is not None
        )
        if failed and one.output.strip() and key != key_of(target.answer):
            found[key] = Pair(
                one.messages,
                target.answer,
                one.output,
                target.source,
                one.group_key,
                one.inference_id,
                target.feedback_id,
                target.rater,
                tools=one.tools,
            )
    return list(found.values())


def _waits(one: Said, target: Example | None, reason: str) -> str | None:
    """Why what was said about an answer taught nothing; None where it did, or where nothing was to be learned."""
    written = [signal.correction for signal in one.signals if signal.correction]
    if target is None:
        return reason if written or _complained(one) else None
    if one.resolution is None and written and not any(_same(text, target.answer) for text in written):
        return "others, who are believed more, say another answer is right"
    return None


def _complained(one: Said) -> bool:
    return any(signal.rating is not None and signal.rating <= BAD for signal in one.signals)


def _doubt(offer: Offer, trust: Trust) -> str:
    held = trust.held.get(offer.feedback_id or "")
    if held is not None:
        return (
            "it came with those of many other new raters on one target, and they wait for a reviewer together; "
            f"`starloop raters show {held}`"
        )
    found = trust.figures.get(offer.rater or "")
    told = f" ({found.why})" if found else ""
    return f"the reliability of its rater is low{told}, so it waits until another rater or a reviewer agrees"


def _usable(signal: Signal, trust: Trust) -> bool:
    return signal.feedback_id not in trust.held and not trust.contradicted(signal.feedback_id)


def _fit(one: Said, contract: TaskContract) -> bool:
    return one.whole and contract.valid(one.output, one.messages, one.tools)


def _age(example: Example) -> tuple[str, str]:
    # Ids are UUIDv7: they sort by the time at which they were made.
    return example.feedback_id or example.inference_id or "", example.content_hash


def _same(one: str, other: str) -> bool:
    return key_of(one) == key_of(other)
