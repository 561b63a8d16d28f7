"""Regression cases from live traffic: answers of the evaluation side that users praised, to be kept right.

Whom to believe, and what speaks against an answer, is curation's to say. Taken are answers that can be compared to the
letter: where two good answers may be worded differently, another wording is no loss. A case stays from one dataset version
to the next, also when its inference has gone with age, until somebody who is believed speaks against it. Then it lapses; it
comes back when that is withdrawn, believed no longer, or found wrong by a reviewer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlmodel import Session, col, select

from feedback.datasets.chat import last_user_text
from feedback.datasets.contract import TaskContract
from feedback.datasets.groups import one_at_a_time, prompt_hash
from feedback.datasets.neighbours import heed_neighbours
from feedback.datasets.replay import doubted_groups, well_rated
from feedback.datasets.said import Example, place_of
from feedback.datasets.tool_calls import asked_calls
from feedback.datasets.votes import key_of
from feedback.datasets.weighing import Gathered
from feedback.ids import new_id
from feedback.settings import Settings
from feedback.storage.tables import Case, Failure, Inference

CONFIRMED_BY = "raters who are believed"
_NO_FAULT = ("accepted", "operations")
"""States of a failure case in which nothing is wrong with the answer."""
_SAID = {"low_rating", "edited"}
"""Reasons that are raters' words: how far they are believed is weighed here, so that a liar takes no case away."""
_REPEATED = 2
_CHUNK = 500


def keep_praised(
    session: Session,
    model: str,
    gathered: Gathered,
    contract: TaskContract,
    settings: Settings,
    now: datetime,
) -> None:
    """Take praised answers into the regression suite, and let those of before lapse that something speaks against by now.

    At most `[evaluation] suite_limit` stand there, and of one rater at most what `[dataset] rater_minimum` and `rater_share`
    let through. Where nobody is weighed (the guard `raters` is off) nothing changes. The caller commits.
    """
    said, trust = gathered.said, gathered.trust
    if not trust.guarded:
        return
    judged = [replace(one, side="train") for one in said if one.side == "evaluation"]
    trust = heed_neighbours(trust, judged, gathered.base, contract)  # which looks at one side alone
    found = well_rated(said, "evaluation", (), contract, trust, Counter())
    one_at_a_time(session)
    praised = _sound(session, {one.inference_id: one for one in found if one.inference_id})
    versions = {one.inference_id: one.version for one in judged}
    turns = _turns(praised.values())
    doubted = doubted_groups(said, trust)
    cases = session.exec(select(Case).where(Case.model == model)).all()
    staying: Counter[str | None] = Counter()
    lapsed: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.state == "lapsed":
            lapsed[case.group_key].append(case)
        if case.version is None or case.state != "confirmed":
            continue
        example = praised.get(case.inference_id or "")
        heard = case.inference_id in versions  # age or an erasure may have taken all that was said
        if (
            case.group_key in doubted
            or (heard and example is None)
            or _otherwise(case, turns.get(_turn(case), []))
            or not contract.valid(case.answer or "", case.messages, case.tools)
        ):
            case.state = "lapsed"
            lapsed[case.group_key].append(case)
        else:
            case.slice = contract.slice_of(case.answer or "")
            staying[example.rater if example else None] += 1
        session.add(case)
    taken = {case.group_key for case in cases if case.state != "lapsed"}
    agreed = [some[0] for some in turns.values() if len({key_of(one.answer) for one in some}) == 1]
    fresh = [one for one in _comparable(agreed, contract) if one.group_key not in taken]
    rules, total = settings.dataset, staying.total()
    cap = max(rules.rater_minimum, int(rules.rater_share * (total + len(fresh))))
    for one in sorted(fresh, key=_lot):
        if total >= settings.evaluation.suite_limit:
            break
        if one.group_key in taken or (one.feedback_id is not None and staying[one.rater] >= cap):
            continue
        taken.add(one.group_key)
        staying[one.rater] += 1
        total += 1
        again = (case for case in lapsed[one.group_key] if _is_of(case, one))
        case = next(again, None) or _case(model, one, versions[one.inference_id or ""], contract, now)
        case.state, case.slice = "confirmed", contract.slice_of(one.answer)
        session.add(case)
    session.flush()


def _sound(session: Session, praised: Mapping[str, Example]) -> dict[str, Example]:
    """Those that are still on record, and in which triage found no fault."""
    identifiers = sorted(praised)
    sound: dict[str, Example] = {}
    for start in range(0, len(identifiers), _CHUNK):
        query = (
            select(Inference.id, Failure.state, Failure.reasons)
            .outerjoin(Failure, col(Failure.inference_id) == col(Inference.id))
            .where(col(Inference.id).in_(identifiers[start : start + _CHUNK]))
        )
        for identifier, state, reasons in session.exec(query):
            faults = {one["reason"] for one in reasons or ()} - _SAID
            if not faults or state in _NO_FAULT:
                sound[identifier] = praised[identifier]
    return sound


def _turns(praised: Iterable[Example]) -> dict[tuple[str, str], list[Example]]:
    """By turn, the earliest answer first."""
    turns: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for one in sorted(praised, key=lambda one: one.inference_id or ""):
        turns[_turn(one)].append(one)
    return turns


def _turn(one: Example | Case) -> tuple[str, str]:
    """What can have but one right answer: a group, and a place in its conversations."""
    return one.group_key, place_of(one.messages, one.tools)


def _otherwise(case: Case, praised: Sequence[Example]) -> bool:
    """Whether another answer than the case's is praised, whose own praise may have gone with age."""
    return any(key_of(one.answer) != key_of(case.answer or "") for one in praised)


def _comparable(agreed: Sequence[Example], contract: TaskContract) -> list[Example]:
    """Those whose answer is the only right one: of a kind that the contract tells, a call, or one of few that the model
    gives, as it was praised for several groups."""
    groups = {(one.group_key, key_of(one.answer)) for one in agreed}
    given = Counter(answer for _, answer in groups)
    return [
        one
        for one in agreed
        if contract.slice_of(one.answer) is not None
        or (one.tools and asked_calls(one.answer) is not None)
        or given[key_of(one.answer)] >= _REPEATED
    ]


def _lot(example: Example) -> tuple[str, str]:
    """A hash of the group's first prompt, so that neither age nor outcome has a say, and a larger suite holds the smaller."""
    return example.group_key, example.inference_id or ""


def _is_of(case: Case, example: Example) -> bool:
    """Whether this is the case that would be made of the example."""
    made = case.inference_id, case.answer, case.messages
    return made == (example.inference_id, example.answer, example.messages)


def _case(model: str, example: Example, version: str, contract: TaskContract, now: datetime) -> Case:
    return Case(
        id=new_id(now),
        model=model,
        suite="regression",
        state="confirmed",
        inference_id=example.inference_id,
        prompt_hash=prompt_hash(last_user_text(example.messages)),
        group_key=example.group_key,
        messages=example.messages,
        tools=example.tools,
        answer=example.answer,
        version=version,
        slice=contract.slice_of(example.answer),
        created=now.timestamp(),
        confirmed=now.timestamp(),
        confirmed_by=CONFIRMED_BY,
    )
