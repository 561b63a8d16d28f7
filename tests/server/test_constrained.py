"""`[[model]] constrain`: what the engine is told of the form of answers, and when nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from feedback.starter.grammar import SCHEMA
from tests.server.inside import HELLO, inside, settings_for
from tests.server.upstream import FakeEngine

LABELS = ["refund", "login"]


def told(engine: FakeEngine, data: Path, path: str, body: dict[str, Any], **model: Any) -> dict[str, Any]:
    """The body that an engine gets for a request to a model with these settings."""
    settings = settings_for(data, [engine.url])
    with inside(replace(settings, model=[replace(settings.model[0], **model)])) as gateway:
        assert gateway.call("POST", path, {"model": "assistant", **body}).status == 200
    return engine.seen[-1].body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO["messages"]}),
        ("/v1/chat/completions", {"messages": HELLO["messages"], "stream": True}),
        ("/v1/completions", {"prompt": "Where is it?"}),
        ("/v1/responses", {"input": "Where is it?"}),
    ],
)
def test_an_answer_is_held_to_the_models_form_while_it_is_written(
    engine: FakeEngine, data: Path, path: str, body: dict[str, Any]
) -> None:
    sent = told(engine, data, path, body, labels=LABELS, constrain=True)
    assert sent["structured_outputs"] == {"choice": LABELS}
    assert sent.get("messages", sent.get("prompt", sent.get("input"))) == next(iter(body.values()))


def test_the_starter_is_held_to_the_schema_that_it_brings(engine: FakeEngine, data: Path) -> None:
    sent = told(engine, data, "/v1/chat/completions", {"messages": HELLO["messages"]}, constrain=True)
    assert sent["structured_outputs"] == {"json": SCHEMA}


@pytest.mark.parametrize(
    "own",
    [
        {"structured_outputs": {"choice": ["yes"]}},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "look"}}]},
        {"continue_final_message": True},
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_request_that_says_what_it_wants_goes_on_as_it_came(
    engine: FakeEngine, data: Path, own: dict[str, Any]
) -> None:
    body = {"messages": HELLO["messages"], **own}
    sent = told(engine, data, "/v1/chat/completions", body, labels=LABELS, constrain=True)
    assert {name: sent[name] for name in own} == own
    assert sent.keys() == {"model", "messages", *own}


@pytest.mark.parametrize(
    ("path", "unsaid"),
    [
        ("/v1/chat/completions", {"response_format": None, "tools": None}),
        ("/v1/chat/completions", {"continue_final_message": False}),
        ("/v1/responses", {"tools": [], "text": {"verbosity": "low"}}),
        ("/v1/responses", {"text": None}),
    ],
)
def test_a_field_that_asks_for_nothing_leaves_the_models_form(
    engine: FakeEngine, data: Path, path: str, unsaid: dict[str, Any]
) -> None:
    said = {"input": "Where?"} if path == "/v1/responses" else {"messages": HELLO["messages"]}
    sent = told(engine, data, path, {**said, **unsaid}, labels=LABELS, constrain=True)
    assert sent["structured_outputs"] == {"choice": LABELS}


def test_a_form_that_an_engine_cannot_hold_answers_to_is_told_before_users_find_out(
    engine: FakeEngine, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(data, [engine.url])
    model = replace(settings.model[0], labels=LABELS, constrain=True)
    engine.status = 400
    with inside(replace(settings, model=[model])) as gateway:
        gateway.wait_for(lambda: "the engine cannot hold answers to its form" in caplog.text)
    assert engine.seen[-1].body["structured_outputs"] == {"choice": LABELS}
    assert "[[model]] 'assistant'" in caplog.text


def test_nothing_is_added_where_nobody_asked_for_it_or_the_api_has_no_field(
    engine: FakeEngine, data: Path
) -> None:
    chat = {"messages": HELLO["messages"]}
    assert "structured_outputs" not in told(engine, data, "/v1/chat/completions", chat, labels=LABELS)
    messages = {**chat, "max_tokens": 8}
    assert "structured_outputs" not in told(
        engine, data, "/v1/messages", messages, labels=LABELS, constrain=True
    )


def test_the_form_is_not_part_of_what_is_kept(engine: FakeEngine, data: Path) -> None:
    settings = settings_for(data, [engine.url])
    model = replace(settings.model[0], labels=LABELS, constrain=True)
    with inside(replace(settings, model=[model])) as gateway:
        answer = gateway.ask()
        kept = gateway.record(answer.headers["x-starloop-inference-id"])
    assert "structured_outputs" not in kept["request"]
