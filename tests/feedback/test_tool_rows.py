"""Rows with tools: what is wrong with one is told, and what is right goes from file to file unchanged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from feedback.checks.template import renders_tools
from feedback.datasets.chat import content_hash
from feedback.datasets.contract import TaskContract, same_answer
from feedback.datasets.exports import exported
from feedback.datasets.files import Frozen, freeze_files
from feedback.datasets.freeze import pair_line
from feedback.datasets.imported import choose_imported, imported_pairs
from feedback.datasets.manifest import line_of
from feedback.datasets.said import BaseExample
from feedback.errors import BadFieldError
from feedback.imports.rows import Row
from feedback.imports.shapes import canonical

ASK = {"role": "user", "content": "Where is order 7?"}
SCHEMA = {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": SCHEMA}}]
RETURNED = {"role": "tool", "tool_call_id": "c1", "content": "in Bonn"}
ANSWER = {"role": "assistant", "content": "In Bonn."}


def call(arguments: Any = '{"order": 7}', name: str = "find", identifier: str = "c1") -> dict[str, Any]:
    asked = {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [asked]}


def read(*messages: dict[str, Any], tools: Any = TOOLS, **more: Any) -> Row:
    return canonical({"messages": [ASK, *messages], "tools": tools, **more}, "chat", 1)


def frozen(directory: Path, row: Row) -> None:
    """The row's answers as a dataset version `d`."""
    placed = [BaseExample(one, "g", "train", "i", row.worse) for one in row.targets()]
    taught = choose_imported(placed, (), (), TaskContract(labels=["yes", "In Bonn."]), Counter())
    pairs = [pair_line(pair) for pair in imported_pairs(placed, taught)]
    freeze_files(directory, "d", Frozen.of({"train": [line_of(one) for one in taught], "pairs": pairs}), {})


def test_a_call_and_the_answer_after_it_are_both_learned_with_the_tools() -> None:
    first, second = read(call(), RETURNED, ANSWER, parallel_tool_calls=False).targets()
    assert json.loads(first.answer) == call()["tool_calls"] and first.messages == [ASK]
    assert (second.answer, second.messages[-1], second.tools) == ("In Bonn.", RETURNED, TOOLS)
    assert first.content_hash != content_hash(first.messages, first.answer), (
        "tools are part of what is learned"
    )


def test_a_row_without_tools_keeps_the_hash_it_always_had() -> None:
    (target,) = read(ANSWER, tools=None).targets()
    assert target.content_hash == "114a0f79dc920e9e9457de9d64b38a50b3da7404baec1d6ae545e4640ce2c97f"


def test_a_row_goes_out_as_it_came_in_and_to_trl_with_objects(tmp_path: Path) -> None:
    messages = [ASK, call() | {"content": ""}, RETURNED, ANSWER]
    frozen(tmp_path, read(*messages[1:]))
    chats = {len(row["messages"]): row for row in exported(tmp_path, "d", "chat", "train")}
    assert chats == {
        2: {"messages": messages[:2], "tools": TOOLS},
        4: {"messages": messages, "tools": TOOLS},
    }
    assert list(canonical(chats[4], "chat", 1).targets()) == list(read(*messages[1:]).targets())
    for row in exported(tmp_path, "d", "trl-completion", "train"):
        turns = [*row["prompt"], *row["completion"]]
        assert turns[1]["tool_calls"][0]["function"]["arguments"] == {"order": 7} and row["tools"] == TOOLS


def test_of_two_calls_the_better_one_goes_out_as_a_pair(tmp_path: Path) -> None:
    worse = call('{"order": 8}')
    asked = {"messages": [ASK], "tools": TOOLS}
    record = {"input": asked, "preferred_output": [call()], "non_preferred_output": [worse]}
    frozen(tmp_path, canonical(record, "comparison", 1))
    (openai,) = exported(tmp_path, "d", "openai-preference", None)
    assert openai["input"] == asked
    assert openai["non_preferred_output"][0]["tool_calls"] == worse["tool_calls"]
    (trl,) = exported(tmp_path, "d", "trl-preference", None)
    assert trl["chosen"][0]["tool_calls"][0]["function"]["arguments"] == {"order": 7}
    with pytest.raises(BadFieldError, match="nothing to prefer"):
        canonical(record | {"non_preferred_output": [call(identifier="other")]}, "comparison", 1)


def test_calls_that_differ_in_their_ids_alone_are_one_answer() -> None:
    one, other = (next(read(call(identifier=identifier)).targets()).answer for identifier in ("a", "b"))
    assert one != other and same_answer(one, other)
    assert not same_answer(one, next(read(call('{"order": 8}')).targets()).answer)


@pytest.mark.parametrize(
    ("record", "field", "problem"),
    [
        (lambda: read(ANSWER, tools=[{"type": "function"}]), "tools.0", "must be"),
        (lambda: read(ANSWER, tools=[*TOOLS, *TOOLS]), "tools.1.function.name", "name each once"),
        (
            lambda: read(
                ANSWER, tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "no"}}}]
            ),
            "tools.0.function.parameters",
            "no JSON schema",
        ),
        (lambda: read(call("{")), "messages.1.tool_calls.0.function.arguments", "is none"),
        (lambda: read(call("[" * 100_000)), "messages.1.tool_calls.0.function.arguments", "is none"),
        (lambda: read(call({"order": 7})), "messages.1.tool_calls.0.function.arguments", "must be text"),
        (lambda: read(call("[]")), "messages.1.tool_calls.0.function.arguments", "a JSON object"),
        (lambda: read(call('{"order": "7"}')), "messages.1.tool_calls.0.function.arguments", "not fit"),
        (lambda: read(call(name="lose")), "messages.1.tool_calls.0.function.name", "there are: find"),
        (lambda: read(call(), tools=None), "messages.1.tool_calls.0.function.name", "there are: none"),
        (lambda: read(call(), RETURNED, RETURNED, ANSWER), "messages.3.tool_call_id", "no call before it"),
        (lambda: read(call(identifier="c2"), RETURNED, ANSWER), "messages.2.tool_call_id", "'c1'"),
        (lambda: read(call(), ASK, ANSWER), "messages.2", "was not returned from"),
        (lambda: read(call(identifier="")), "messages.1.tool_calls.0.id", "must be text"),
        (lambda: read(ANSWER | {"tool_calls": {"a": 1}}), "messages.1.tool_calls", "must be a list"),
        (lambda: read(ANSWER, functions=[{}]), "functions", "old form"),
        (lambda: read(ANSWER | {"function_call": {"name": "f"}}), "messages.1.function_call", "old form"),
        (lambda: read(ANSWER, parallel_tool_calls="no"), "parallel_tool_calls", "true or false"),
    ],
)
def test_what_is_wrong_with_tools_is_told_with_its_place(record: Any, field: str, problem: str) -> None:
    with pytest.raises(BadFieldError) as raised:
        record()
    assert raised.value.field == field and problem in raised.value.problem


def test_a_schema_that_refers_elsewhere_is_not_looked_up() -> None:
    tool = {"name": "find", "parameters": {"$ref": "http://127.0.0.1:9/schema"}}
    with pytest.raises(BadFieldError, match="cannot be followed"):
        read(call(), tools=[{"type": "function", "function": tool}])


def test_whether_a_template_speaks_of_tools_is_read_from_the_bases_folder(tmp_path: Path) -> None:
    assert renders_tools(tmp_path), "what cannot be read is not accused"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert not renders_tools(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% if tools %}{{ tools }}{% endif %}")
    assert renders_tools(tmp_path)
