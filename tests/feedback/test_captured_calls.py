"""Answers that called tools, as they were captured: learned with their tools, and never in another turn's place."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from feedback.datasets.asked import asked_of
from feedback.datasets.believed import Belief
from feedback.datasets.exports import exported
from feedback.datasets.failures import resolve_failure, triage_in_steps
from feedback.datasets.freeze import build_dataset, read_rows
from feedback.datasets.review_case import read_case
from feedback.datasets.review_queue import Waiting
from feedback.datasets.why import why_example, why_inference
from feedback.errors import BadFieldError
from feedback.ids import new_id
from feedback.imports.shapes import canonical
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion, Failure
from tests.feedback.world import NOW, RIGHT, World, settings_for

SCHEMA = {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]}
TOOLS = [{"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": SCHEMA}}]
USER = {"role": "user", "content": "Where is order 7?"}
RETURNED = {"role": "tool", "tool_call_id": "c1", "content": "in Bonn"}


def calls(order: Any = 7, identifier: str = "c1") -> list[dict[str, Any]]:
    arguments = json.dumps({"order": order})
    return [{"id": identifier, "type": "function", "function": {"name": "find", "arguments": arguments}}]


def turn(order: Any = 7) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": calls(order)}


def request(*messages: dict[str, Any], tools: Any = TOOLS) -> str:
    return json.dumps({"model": "assistant", "messages": list(messages), "tools": tools})


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, settings_for(tmp_path))


def called(world: World, order: Any = 8, user: str = "ann", **fields: Any) -> str:
    """A request that was answered with a call."""
    fields = {"request": request(USER)} | fields
    output = json.dumps([{"index": 0, **calls(order)[0]}])  # as streams have them
    return world.ask(USER["content"], output, user, finish_reason="tool_calls", **fields)


def build(world: World, settings: Settings | None = None) -> DatasetVersion:
    world.write()
    triage_in_steps(world.database, "assistant", world.settings, NOW)
    guards = ("replay", "size")
    return build_dataset(world.database, settings or world.settings, "assistant", new_id(NOW), guards, NOW)


def rows(world: World, dataset: DatasetVersion, name: str = "train") -> list[dict[str, Any]]:
    return list(read_rows(world.settings.directory, dataset.id, name))


def test_a_corrected_call_is_learned_with_its_tools_and_leaves_as_rows_that_come_in_again(
    world: World,
) -> None:
    asked = called(world)
    world.say(asked, 1, json.dumps(calls()))
    dataset = build(world)
    (row,) = rows(world, dataset)
    assert (row["tools"], json.loads(row["answer"])) == (TOOLS, calls())
    (pair,) = rows(world, dataset, "pairs")
    assert json.loads(pair["rejected"]) == calls(8) and pair["tools"] == TOOLS
    (chat,) = exported(world.settings.directory, dataset.id, "chat", None)
    assert chat == {"messages": [USER, turn()], "tools": TOOLS}
    assert canonical(chat, "chat", 1).answers == 1
    with world.database.reading() as session:
        why = why_example(session, world.settings.directory, dataset, "0")
        assert "tools: its calls fit the schemas of the tools that were offered" in why["told"]
        assert why["tools"] == TOOLS
        assert dataset.id in why_inference(session, "assistant", asked, 0.01)["told"]


def test_a_correction_may_be_the_assistants_message(world: World) -> None:
    message = {"role": "assistant", "tool_calls": [{"type": "function", "function": calls()[0]["function"]}]}
    world.say(called(world), 1, json.dumps(message))
    (row,) = rows(world, build(world))
    assert json.loads(row["answer"]) == message
    (chat,) = exported(world.settings.directory, build(world).id, "chat", None)
    assert chat["messages"][-1]["tool_calls"][0]["id"] == "call_1"


def test_a_correction_that_the_tool_does_not_take_waits_and_says_why(world: World) -> None:
    asked = called(world)
    world.say(asked, 1, json.dumps(calls("seven")))
    world.correct("another, so that there is a version", RIGHT)
    build(world)
    with world.database.reading() as session:
        case = session.exec(select(Failure).where(Failure.inference_id == asked)).one()
    assert case.state == "quarantine" and case.waits is not None
    assert "does not fit the schema of find: 'seven' is not of type 'integer'" in case.waits


def test_a_reviewer_corrects_a_call_by_a_call_that_its_tool_takes(world: World) -> None:
    world.say(called(world), 1)
    triage_in_steps(world.write().database, "assistant", world.settings, NOW)
    with world.database.session() as session:
        (case,) = session.exec(select(Failure)).all()
        resolve = partial(
            resolve_failure, session, case.id, "correct", by="eve", settings=world.settings, now=NOW
        )
        with pytest.raises(BadFieldError, match="is not of type 'integer'"):
            resolve(correction=json.dumps(calls("seven")))
        resolve(correction=json.dumps(calls()))
        found = read_case(session, Waiting(case.id, 1.0, 1, 1.0), world.settings, Belief())
        assert found.messages == [USER]
        session.commit()
    (row,) = rows(world, build(world))
    assert (row["source"], json.loads(row["answer"]), row["tools"]) == ("reviewer", calls(), TOOLS)


def test_a_praised_call_is_replayed_and_no_contract_judges_it(world: World) -> None:
    world.say(called(world, 7, "bob"), 5, rater="bob")
    world.correct("another, so that there is a version", RIGHT)
    dataset = build(world)
    (row,) = [one for one in rows(world, dataset) if one["source"] == "replay"]
    assert row["tools"] == TOOLS and json.loads(row["answer"]) == calls()
    with world.database.reading() as session:
        assert len(session.exec(select(Failure)).all()) == 1, "a call is not out of the answers' form"


def test_a_call_whose_arguments_are_no_object_is_a_failure(world: World) -> None:
    broken = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": '}}]
    world.ask(USER["content"], json.dumps(broken), request=request(USER), finish_reason="tool_calls")
    triage_in_steps(world.write().database, "assistant", world.settings, NOW)
    with world.database.reading() as session:
        (case,) = session.exec(select(Failure)).all()
    assert case.reasons[0]["evidence"] == "the answer calls find with arguments that are no JSON object"


def test_a_call_and_the_answer_after_it_are_two_targets_and_neither_is_the_others(world: World) -> None:
    world.say(called(world), 1, json.dumps(calls()))
    later = world.ask(USER["content"], OUT_OF_FORM, request=request(USER, turn(), RETURNED))
    world.say(later, 1, RIGHT)
    found = {len(row["messages"]): row["answer"] for row in rows(world, build(world))}
    assert found == {1: json.dumps(calls()), 3: RIGHT}


OUT_OF_FORM = "It is lost."


def test_an_answer_without_tools_teaches_nothing_about_the_same_question_with_them(world: World) -> None:
    world.praise(USER["content"], "bob", RIGHT)
    world.say(called(world, user="cleo"), 1, rater="cleo")
    world.correct("another, so that there is a version", RIGHT)
    assert all(row["source"] != "sibling" for row in rows(world, build(world)))


def test_personal_data_in_arguments_is_replaced_before_training(world: World, tmp_path: Path) -> None:
    text = {"type": "object", "properties": {"note": {"type": "string"}, "card": {}}}
    tools = [{"type": "function", "function": {"name": "find", "parameters": text}}]

    def noted(note: str) -> str:
        arguments = json.dumps({"note": note, "card": 4111111111111111})
        return json.dumps(
            [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": arguments}}]
        )

    asked = world.ask(
        USER["content"], noted("nobody"), request=request(USER, tools=tools), finish_reason="tool_calls"
    )
    world.say(asked, 1, noted("call\n+49 30 1234567 or jörg@example.com"))
    redacting = settings_for(tmp_path, pii="redact")
    (row,) = rows(world, build(world, redacting))
    (call,) = json.loads(row["answer"])
    assert json.loads(call["function"]["arguments"]) == {"note": "call\n[phone] or [email]", "card": "[card]"}


CHAT = {"messages": [{"role": "system", "content": "Help."}, USER, turn(), RETURNED], "tools": TOOLS}
ANTHROPIC = {
    "system": [{"type": "text", "text": "Help."}],
    "messages": [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "c1", "name": "find", "input": {"order": 7}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "in Bonn"}]}
            ],
        },
    ],
    "tools": [{"name": "find", "description": "Finds.", "input_schema": SCHEMA}],
}
RESPONSES = {
    "instructions": "Help.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": USER["content"]}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"order": 7}'},
        {"type": "function_call_output", "call_id": "c1", "output": "in Bonn"},
    ],
    "tools": [{"type": "function", "name": "find", "description": "Finds.", "parameters": SCHEMA}],
}


@pytest.mark.parametrize("body", [CHAT, ANTHROPIC, RESPONSES], ids=["chat", "messages", "responses"])
def test_every_api_says_the_same_in_one_form(body: dict[str, Any]) -> None:
    found = asked_of(json.dumps(body))
    assert found is not None and found.tools == TOOLS
    assert found.messages == CHAT["messages"]


@pytest.mark.parametrize(
    "body",
    [
        CHAT | {"messages": [*CHAT["messages"], turn()]},
        CHAT | {"messages": [USER, RETURNED]},
        CHAT | {"messages": [USER | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        CHAT | {"tools": [{"type": "web_search"}]},
        CHAT | {"tools": "all"},
        CHAT | {"functions": [{"name": "find"}]},
        {"tools": TOOLS},
        {"tools": TOOLS, "messages": []},
        {"tools": TOOLS, "messages": [7]},
        {"tools": TOOLS, "input": [{"type": "web_search_call"}]},
        ANTHROPIC | {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c9"}]}]},
    ],
)  # fmt: skip
def test_what_is_no_chat_of_texts_and_calls_is_left_alone(body: dict[str, Any]) -> None:
    assert asked_of(json.dumps(body)) is None


def test_of_many_requests_with_the_same_tools_the_tools_are_held_once() -> None:
    one, other = asked_of(request(USER)), asked_of(request(USER | {"content": "And order 8?"}))
    assert one is not None and other is not None and one.tools is other.tools
