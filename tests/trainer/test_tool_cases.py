"""Conversations with tools as evaluation cases: drawn, confirmed, held out, asked as they were, and right by what is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from feedback.access.audit import Actor
from feedback.commands.data import data
from feedback.datasets.answer_match import matches
from feedback.datasets.case_hash import case_hash
from feedback.datasets.cases import confirm_case, draw_cases, golden_cases, holdout_cases
from feedback.datasets.contract import TaskContract
from feedback.datasets.failures import triage_in_steps
from feedback.datasets.freeze import build_dataset
from feedback.errors import BadFieldError
from feedback.ids import new_id
from feedback.privacy.erasure import erase_user
from feedback.starter.grammar import SCHEMA
from feedback.storage.database import Database
from feedback.storage.tables import Case, Inference
from tests.feedback.test_captured_calls import RETURNED, TOOLS, calls, request, turn
from tests.feedback.test_freeze import topics
from tests.feedback.world import NOW, World, settings_for
from tests.trainer.test_evaluation import FIRST, evaluation, go_on
from trainer.metrics import Metrics
from trainer.scoring import validity

CONTRACT = TaskContract(SCHEMA)
CALLS = json.dumps(calls())


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, settings_for(tmp_path, evaluation_share=0.5))


def ask_all(world: World) -> list[str]:
    """Forty requests with tools that were answered by a wrong call."""
    wrong = json.dumps(calls(8))
    return [
        world.ask(
            topic,
            wrong,
            f"user {n}",
            request=request({"role": "user", "content": topic}),
            finish_reason="tool_calls",
        )
        for n, topic in enumerate(topics(40))
    ]


def drawn(world: World, count: int = 1) -> list[Case]:
    with world.database.session() as session:
        found = draw_cases(session, "assistant", count, world.settings, 1, NOW)
        session.commit()
        return found


def test_a_drawn_case_keeps_its_tools_and_is_confirmed_by_a_call_that_they_take(world: World) -> None:
    ask_all(world)
    (case,) = drawn(world.write())
    assert case.tools == TOOLS
    with world.database.session() as session:
        with pytest.raises(BadFieldError, match="'seven' is not of type 'integer'"):
            confirm_case(session, case.id, json.dumps(calls("seven")), "rob", NOW, CONTRACT)
        with pytest.raises(BadFieldError, match="not"):
            confirm_case(session, case.id, "a text against the contract", "rob", NOW, CONTRACT)
        confirm_case(session, case.id, json.dumps(turn()), "rob", NOW, CONTRACT)
        session.commit()
    with world.database.reading() as session:
        (golden,) = golden_cases(session, "assistant")
    assert (golden.tools, golden.answer) == (TOOLS, CALLS)


def test_what_a_call_returned_is_part_of_the_case(world: World) -> None:
    for n, topic in enumerate(topics(30)):
        asked = request({"role": "user", "content": topic}, turn(), RETURNED)
        world.ask(topic, "It is in Bonn.", f"user {n}", request=asked)
    (case,) = drawn(world.write())
    assert [one["role"] for one in case.messages] == ["user", "assistant", "tool"]


def test_corrected_calls_of_the_evaluation_side_are_held_out_with_their_tools(world: World) -> None:
    for n, inference in enumerate(ask_all(world)):
        world.say(inference, 1, CALLS, f"user {n}")
    world.write()
    triage_in_steps(world.database, "assistant", world.settings, NOW)
    dataset = build_dataset(world.database, world.settings, "assistant", new_id(NOW), ("replay", "size"), NOW)
    with world.database.reading() as session:
        held = holdout_cases(session, "assistant")
    assert len(held) > 3 and all((one.tools, one.answer) == (TOOLS, CALLS) for one in held)
    trained = (world.settings.directory / "datasets" / dataset.id / "train.jsonl").read_text()
    assert trained and not any(one.messages[-1]["content"] in trained for one in held)


def test_the_case_is_asked_with_its_tools_and_judged_by_what_is_called(world: World) -> None:
    ask_all(world)
    (case,) = drawn(world.write())
    with world.database.session() as session:
        confirm_case(session, case.id, CALLS, "rob", NOW, CONTRACT)
        session.commit()
    with world.database.reading() as session:
        cases = golden_cases(session, "assistant")
    bodies: list[dict[str, Any]] = []
    called: list[Any] = [calls(7, "chatcmpl-tool-91"), calls("seven")]

    def respond(sent: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(sent.content))
        message = {"content": "One moment.", "tool_calls": called[len(bodies) - 1]}
        return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": "tool_calls"}]})

    asks = evaluation(world.database, respond)
    right = asks.answers(FIRST, cases, go_on)
    assert asks.answers(FIRST, cases, go_on) == right and len(bodies) == 1, "kept under the case's hash"
    assert bodies[0]["tools"] == TOOLS
    wrong = {case.id: asks.ask(FIRST, cases[0])}
    figures = [Metrics.of(cases, answers, CONTRACT) for answers in (right, wrong)]
    assert [(one.accuracy, one.valid_format) for one in figures] == [(1.0, 1.0), (0.0, 0.0)]
    (outcome,) = validity(cases, right, wrong, CONTRACT)
    assert (outcome.champion, outcome.challenger) == (1.0, 0.0)


def test_calls_match_by_names_and_arguments_alone() -> None:
    spaced = [{"type": "function", "function": {"name": "find", "arguments": '{ "order" : 7 }'}}]
    assert matches(CALLS, json.dumps(spaced))
    assert matches(CALLS, json.dumps({"content": "Let me see.", "tool_calls": calls(7, "other")}))
    assert not matches(CALLS, json.dumps(calls(8)))
    assert not matches(CALLS, json.dumps([*calls(), *calls(7, "c2")]))
    assert not matches(CALLS, "It is in Bonn.") and not matches("It is in Bonn.", CALLS)


def test_the_same_words_with_other_tools_are_another_question() -> None:
    messages = [{"role": "user", "content": "Where is order 7?"}]
    assert len({case_hash(messages, 16, "", tools) for tools in (None, TOOLS, [*TOOLS, {}])}) == 3
    assert case_hash(messages, 16) == case_hash(messages, 16, "", [])


def test_people_are_shown_the_tools_of_a_case(world: World) -> None:
    ask_all(world)
    (case,) = drawn(world.write())
    runner = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(world.settings.directory)})
    result = runner.invoke(data, ["golden", "list", "--model", "assistant"])
    assert result.exit_code == 0, result.output
    assert (
        case.id in result.output
        and "tools it may call" in result.output
        and '"name": "find"' in result.output
    )


def test_an_erased_users_case_keeps_neither_words_nor_tools(world: World) -> None:
    ask_all(world)
    (case,) = drawn(world.write())
    with world.database.reading() as session:
        inference = session.get(Inference, case.inference_id)
        assert inference is not None and inference.user is not None
        user = inference.user
    erase_user(world.database, world.settings, user, Actor("tester"), lambda: NOW, patience=1.0)
    with world.database.reading() as session:
        row = session.get(Case, case.id)
    assert row is not None and (row.state, row.messages, row.tools, row.answer) == ("dropped", [], None, None)
