"""Regression cases from what users praised: who may make one, what takes it away, and what it leaves as it is."""

from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import col, select

from feedback.access.audit import Actor
from feedback.datasets.cases import confirm_case, draw_cases, drop_case, regression_cases
from feedback.datasets.contract import TaskContract
from feedback.datasets.failures import resolve_failure, triage_model
from feedback.datasets.praised import keep_praised
from feedback.datasets.weighing import gather
from feedback.datasets.why import why_inference
from feedback.privacy.erasure import erase_user
from feedback.privacy.retention import expire
from feedback.registry.lineage import lineage_of_inference, lineage_of_user
from feedback.settings import Settings
from feedback.starter.grammar import SCHEMA
from feedback.storage.database import Database
from feedback.storage.tables import Case, Failure, PromptGroup
from tests.feedback.test_freeze import topics
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, World, settings_for

CONTRACT = TaskContract(SCHEMA)
ANSWERS = (RIGHT, WRONG, OTHER)


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, settings_for(tmp_path, evaluation_share=0.9))


def settings_for_prose(world: World) -> Settings:
    """The same without a task contract, for triage too."""
    model = msgspec.structs.replace(world.settings.model[0], base="somebody/else")
    return msgspec.structs.replace(world.settings, model=[model])


def take(
    world: World,
    contract: TaskContract = CONTRACT,
    limit: int = 1000,
    guards_off: tuple[str, ...] = (),
) -> list[Case]:
    """What a dataset version does to the suite; the cases that stand then, by id."""
    evaluation = msgspec.structs.replace(world.settings.evaluation, suite_limit=limit)
    settings: Settings = msgspec.structs.replace(world.settings, evaluation=evaluation)
    gathered = gather(world.write().database, settings, settings.model[0], contract, NOW, guards_off)
    with world.database.session() as session:
        triage_model(session, "assistant", settings, NOW)
        keep_praised(session, "assistant", gathered, contract, settings, NOW)
        session.commit()
        return standing(world)


def standing(world: World) -> list[Case]:
    with world.database.reading() as session:
        query = select(Case).where(Case.suite == "regression", Case.state == "confirmed")
        return list(session.exec(query.order_by(col(Case.id))))


def states(world: World) -> dict[str, int]:
    with world.database.reading() as session:
        return dict(Counter(session.exec(select(Case.state))))


def everything(cases: list[Case]) -> list[dict[str, Any]]:
    return [case.model_dump() for case in cases]


def prompts(cases: list[Case]) -> set[str]:
    return {case.messages[-1]["content"] for case in cases}


def praised(world: World, count: int = 40, first: int = 0) -> list[str]:
    """Prompts whose answers, of several kinds, their users praise; each user asks one."""
    asked = topics(first + count)[first:]
    for n, prompt in enumerate(asked, first):
        world.praise(prompt, f"user {n}", ANSWERS[n % 3])
    return asked


def test_praised_answers_of_the_evaluation_side_become_cases_one_for_each_group(world: World) -> None:
    asked = praised(world)
    for n, prompt in enumerate(asked):
        world.praise(prompt + " !", f"user {n}", ANSWERS[n % 3])
    cases = take(world)
    assert 20 < len(cases) < 40, (
        "about four fifths of the groups stand on the evaluation side with their user"
    )
    assert len({case.group_key for case in cases}) == len(cases)
    known = dict(zip(asked, (ANSWERS[n % 3] for n in range(40)), strict=True))
    assert all(case.answer == known[case.messages[-1]["content"].removesuffix(" !")] for case in cases)
    assert {case.version for case in cases} == {"base"}
    with world.database.reading() as session:
        assert {one.id for one in regression_cases(session, "assistant")} == {case.id for case in cases}


def test_taken_once_cases_stay_as_they_are_and_others_come_beside_them(world: World) -> None:
    praised(world)
    before = take(world)
    assert [case.id for case in take(world)] == [case.id for case in before]
    praised(world, first=40)
    after = take(world)
    assert {case.id for case in before} < {case.id for case in after}


def test_a_bound_takes_the_first_by_hash_and_a_larger_one_keeps_them(world: World) -> None:
    praised(world)
    few = take(world, limit=5)
    assert len(few) == 5
    many = take(world, limit=12)
    assert len(many) == 12 and {case.id for case in few} < {case.id for case in many}
    keys = sorted(case.group_key for case in take(world))
    assert {case.group_key for case in few} == set(keys[:5])


def test_a_rater_gives_no_more_cases_than_new_examples(world: World) -> None:
    for n, prompt in enumerate(topics(60)):
        world.say(world.ask(prompt, RIGHT, f"user {n}"), 5, rater="flood")
        world.say(world.ask(topics(60, seed=5)[n], ANSWERS[n % 3], f"user {n}"), 5, rater=f"user {n}")
    cases = take(world)
    flood = prompts(cases) & set(topics(60))
    assert len(flood) == world.settings.dataset.rater_minimum == 5
    assert len(cases) > 40


SPOKEN_AGAINST = ["complaint", "correction", "complaint about a like prompt", "other praised answer"]


@pytest.mark.parametrize("how", SPOKEN_AGAINST)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_somebody_speaks_against_is_no_case_or_is_one_no_longer(
    world: World, how: str, when: str
) -> None:
    asked = topics(40)
    ids = [world.praise(prompt, f"user {n}", ANSWERS[n % 3]) for n, prompt in enumerate(asked)]
    if when == "after":
        assert take(world)
    for n, (prompt, identifier) in enumerate(zip(asked[:20], ids[:20], strict=True)):
        other = ANSWERS[(n + 1) % 3]
        if how == "complaint":
            world.say(identifier, 1, rater=f"critic {n}")
        elif how == "correction":
            world.say(identifier, None, other, rater=f"critic {n}")
        elif how == "complaint about a like prompt":
            world.say(world.ask(prompt + " ?", other, f"critic {n}"), 2, rater=f"critic {n}")
        else:
            world.praise(prompt + " ?", f"user {n}", other)
    found = prompts(take(world))
    assert found and not found & set(asked[:20])


def test_an_answer_that_breaks_the_contract_or_was_cut_is_no_case(world: World) -> None:
    asked = topics(60)
    for n in range(30):
        world.praise(asked[n], f"user {n}", "sorry")
        cut = world.ask(asked[30 + n], RIGHT, f"user {30 + n}", finish_reason="length")
        world.say(cut, 5, rater=f"user {n}")
    assert take(world) == []


def test_an_answer_in_which_triage_finds_a_fault_is_no_case_however_often_it_is_praised(world: World) -> None:
    world.settings = settings_for_prose(world)
    for n, prompt in enumerate(topics(60)):
        world.praise(prompt, f"user {n}", "I'm sorry, but I can't help with that." if n < 30 else "billing")
    assert {case.answer for case in take(world, TaskContract())} == {"billing"}


def test_what_a_complaint_took_away_comes_back_as_it_was_when_a_reviewer_finds_the_answer_right(
    world: World,
) -> None:
    praised(world)
    before = take(world)
    for n, case in enumerate(before):
        world.say(case.inference_id or "", 1, rater=f"critic {n}")
    assert take(world) == [] and states(world) == {"lapsed": len(before)}
    with world.database.session() as session:
        for failure in session.exec(select(Failure)).all():
            resolve_failure(session, failure.id, "accept", None, "rob", world.settings, NOW)
        session.commit()
    assert everything(take(world)) == everything(before)


def test_why_says_that_a_praised_answer_is_a_case_or_was_one(world: World) -> None:
    praised(world)
    first, second = take(world)[:2]
    question = second.messages[-1]["content"]
    world.say(world.ask(question + " ?", OTHER, "critic"), 1, rater="critic")
    assert second.id not in {case.id for case in take(world)}
    told = []
    for case in (first, second):
        with world.database.reading() as session:
            told.append(why_inference(session, "assistant", case.inference_id or "", 0.9)["told"])
    assert "a case of the regression suite, as raters who are believed praised it, so" in told[0]
    assert "it was praised and a case of the regression suite, until somebody" in told[1]


def test_who_takes_a_complaint_back_brings_the_case_back_unless_a_person_dropped_it(world: World) -> None:
    praised(world)
    first, *rest = before = take(world)
    for n, case in enumerate(before):
        world.say(case.inference_id or "", 1, rater=f"critic {n}")
    assert take(world) == []
    with world.database.session() as session:
        drop_case(session, first.id)
        session.commit()
    for n, case in enumerate(before):
        world.say(case.inference_id or "", 5, rater=f"critic {n}")
    assert everything(take(world)) == everything(rest)


def test_a_praised_answer_that_its_user_changed_is_taken_in_the_new_answers_place(world: World) -> None:
    asked = praised(world)
    before = take(world)
    for case in before:
        n = asked.index(case.messages[-1]["content"])
        world.say(case.inference_id or "", 1, rater=f"user {n}")
        world.say(
            world.ask(asked[n] + " ?", OTHER if n % 3 < 2 else RIGHT, f"user {n}"), 5, rater=f"user {n}"
        )
    assert take(world) == [], "the complaint speaks against the group"
    for case in before:
        n = asked.index(case.messages[-1]["content"])
        world.say(case.inference_id or "", 5, rater=f"user {n}")
    assert take(world) == [], "two answers are praised in each"


def test_age_takes_no_case_but_another_answer_that_is_praised_since_takes_its_place(world: World) -> None:
    asked = praised(world)
    before = take(world)
    capture = msgspec.structs.replace(world.settings.capture, retention_days=30)
    settings = msgspec.structs.replace(world.settings, capture=capture)
    expire(world.database, settings, Actor("admin"), NOW + timedelta(days=40))
    assert [case.id for case in take(world)] == [case.id for case in before]
    changed = [prompt for prompt in asked[:20] if prompt in prompts(before)]
    for prompt in changed:
        n = asked.index(prompt)
        world.praise(prompt + " ?", f"user {n}", ANSWERS[(n + 1) % 3])
    after = {case.group_key: case.answer for case in take(world)}
    assert len(changed) > 5 and after.keys() == {case.group_key for case in before}
    assert sum(after[case.group_key] != case.answer for case in before) == len(changed)


def test_an_erased_users_case_goes_also_when_age_had_taken_its_inference(world: World) -> None:
    asked = praised(world)
    before = take(world)
    gone = before[0]
    text = gone.messages[-1]["content"]
    capture = msgspec.structs.replace(world.settings.capture, retention_days=30)
    settings = msgspec.structs.replace(world.settings, capture=capture)
    expire(world.database, settings, Actor("admin"), NOW + timedelta(days=40))
    erase_user(world.database, world.settings, f"user {asked.index(text)}", Actor("admin"), lambda: NOW)
    with world.database.reading() as session:
        case = session.get_one(Case, gone.id)
        prompt = session.get_one(PromptGroup, gone.prompt_hash)
    assert (case.state, case.messages, case.answer, prompt.text) == ("dropped", [], None, "")
    assert {case.id for case in take(world)} == {case.id for case in before[1:]}
    assert text.encode() not in (world.settings.directory / "starloop.sqlite").read_bytes()


def test_the_kind_of_a_case_is_that_of_the_present_contract(world: World) -> None:
    praised(world)
    assert {case.slice for case in take(world)} == {"refund", "bug", "login"}
    urgency = {
        "type": "object",
        "properties": {"urgency": {"enum": ["low", "high"]}},
        "required": ["urgency"],
    }
    assert {case.slice for case in take(world, TaskContract(urgency))} == {"low"}


def test_a_liars_complaint_takes_no_case_away(world: World) -> None:
    asked = topics(60)
    for n, prompt in enumerate(asked):
        right = world.ask(prompt, ANSWERS[n % 3], f"user {n}")
        for honest in range(3):
            world.say(right, 5, rater=f"honest {n % 12 + 12 * honest}")
    before = take(world)
    assert len(before) > 30
    for case in before:
        world.say(case.inference_id or "", 1, rater="liar")
    assert [case.id for case in take(world)] == [case.id for case in before]


def test_liars_whom_curation_does_not_believe_make_no_case(world: World) -> None:
    """One praises everything, also what all others call wrong; another gives each answer five stars and each is wrong."""
    for n, prompt in enumerate(topics(60)):
        wrong = world.ask(prompt, WRONG, f"user {n}")
        for honest in range(3):
            world.say(wrong, 1, rater=f"honest {honest}")
        world.say(wrong, 5, rater="liar")
    lone = topics(30, seed=7)
    for n, prompt in enumerate(lone):
        world.say(world.ask(prompt, WRONG, f"lone {n}"), 5, rater="liar")
    assert not prompts(take(world)) & {*lone, *topics(60)}


def test_nothing_is_taken_where_nobody_is_weighed(world: World) -> None:
    praised(world)
    assert take(world, guards_off=("raters",)) == []


def test_an_answer_in_prose_is_no_case_for_another_may_be_as_good(world: World) -> None:
    world.settings = settings_for_prose(world)
    asked = topics(60)
    for n in range(30):
        world.praise(asked[n], f"user {n}", f"You can {asked[n]} by calling us.")
        world.praise(asked[30 + n], f"user {30 + n}", ("billing", "shipping")[n % 2])
    found = take(world, TaskContract())
    assert found and prompts(found) <= set(asked[30:])
    assert {case.answer for case in found} == {"billing", "shipping"}


def test_golden_cases_are_drawn_blind_to_praise_and_take_the_praised_ones_place(world: World) -> None:
    praised(world)
    cases = {case.group_key: case for case in take(world)}
    with world.database.session() as session:
        drawn = draw_cases(session, "assistant", 1000, world.settings, 1, NOW)
        session.commit()
    assert cases.keys() == {case.group_key for case in drawn}, "what was praised is drawn as all else is"
    assert len(standing(world)) == len(cases), "a drawn case has no answer yet"
    with world.database.session() as session:
        confirm_case(session, drawn[0].id, OTHER, "rob", NOW, CONTRACT)
        session.commit()
    left = {case.group_key for case in take(world)}
    assert left == cases.keys() - {drawn[0].group_key}


def test_an_erased_users_case_goes_with_its_text_and_never_comes_back(world: World) -> None:
    praised(world)
    (first, *rest) = take(world)
    text = first.messages[-1]["content"]
    user = f"user {topics(40).index(text)}"
    with world.database.reading() as session:
        (shown,) = lineage_of_inference(session, first.inference_id or "")["cases"]
        assert shown == {"id": first.id, "suite": "regression", "state": "confirmed", "version": "base"}
        assert lineage_of_user(session, user)["cases"] == [shown]
    erase_user(world.database, world.settings, user, Actor("admin"), lambda: NOW)
    with world.database.reading() as session:
        gone = session.get_one(Case, first.id)
    assert (gone.state, gone.messages, gone.answer) == ("dropped", [], None)
    assert [case.id for case in take(world)] == [case.id for case in rest]


def test_a_case_that_lapsed_goes_with_its_text_too_when_its_user_is_erased(world: World) -> None:
    asked = praised(world)
    first = take(world)[0]
    world.say(first.inference_id or "", 1, rater="critic")
    assert first.id not in {case.id for case in take(world)}
    erase_user(
        world.database,
        world.settings,
        f"user {asked.index(first.messages[-1]['content'])}",
        Actor("admin"),
        lambda: NOW,
    )
    with world.database.reading() as session:
        gone = session.get_one(Case, first.id)
    assert (gone.state, gone.messages, gone.answer) == ("dropped", [], None)
    assert first.group_key not in {case.group_key for case in take(world)}


def test_an_erased_raters_words_that_repeat_the_answer_take_no_case_away(world: World) -> None:
    for n, prompt in enumerate(topics(40)):
        world.say(world.ask(prompt, ANSWERS[n % 3], f"user {n}"), 5, ANSWERS[n % 3], rater=f"friend {n}")
    before = take(world)
    assert len(before) > 20
    friend = topics(40).index(before[0].messages[-1]["content"])
    erase_user(world.database, world.settings, f"friend {friend}", Actor("admin"), lambda: NOW)
    assert everything(take(world)) == everything(before)


def test_a_call_and_the_answer_made_of_what_it_returned_are_praised_side_by_side(world: World) -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    asked = topics(40)

    def converse(n: int) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": f'{{"n": {n}}}'}}
        messages: list[dict[str, Any]] = [{"role": "user", "content": asked[n]}]
        for output, reason in ((json.dumps([call]), "tool_calls"), (ANSWERS[n % 3], "stop")):
            request = json.dumps({"messages": messages, "tools": tools})
            turn = world.ask(asked[n], output, f"user {n}", request=request, finish_reason=reason)
            world.say(turn, 5, rater=f"user {n}")
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": f"found {n}"},
            ]

    for n in range(40):
        converse(n)
    cases = take(world)
    assert len(cases) > 20 and len({case.group_key for case in cases}) == len(cases)
    assert all(case.tools == tools and "find" in (case.answer or "") for case in cases)
    assert everything(take(world)) == everything(cases)


def test_two_that_make_dataset_versions_at_once_take_one_case_for_each_group(
    database: Database, tmp_path: Path
) -> None:
    world = World(database, settings_for(tmp_path, evaluation_share=0.9))
    praised(world)
    gathered = gather(world.write().database, world.settings, world.settings.model[0], CONTRACT, NOW, ())
    begun = threading.Event()

    def other() -> None:
        with database.session() as session:
            begun.set()
            keep_praised(session, "assistant", gathered, CONTRACT, world.settings, NOW)
            session.commit()

    thread = threading.Thread(target=other)
    with database.session() as session:
        keep_praised(session, "assistant", gathered, CONTRACT, world.settings, NOW)
        thread.start()
        assert begun.wait(30)
        thread.join(0.5)
        assert thread.is_alive(), "it waits for its turn"
        session.commit()
    thread.join(60)
    cases = standing(world)
    assert len(cases) > 20 and len({case.group_key for case in cases}) == len(cases)
