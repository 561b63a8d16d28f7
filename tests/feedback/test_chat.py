"""Conversations out of requests and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback.datasets.chat import base_examples, content_hash, last_user_text, messages_of
from feedback.errors import BadInputError
from feedback.settings import Model

USER = {"role": "user", "content": "hello"}


def request(*messages: Any, **more: Any) -> str:
    return json.dumps({"model": "assistant", "messages": list(messages), **more})


def test_text_parts_are_joined_as_the_engine_joins_them() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    assert messages_of(request({"role": "system", "content": "be kind"}, parts)) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one\ntwo"},
    ]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "not JSON",
        "[]",
        '{"prompt": "a completion"}',
        '{"messages": []}',
        '{"messages": ["x"]}',
        request(USER, tools=[{"type": "function"}]),
        request(USER, {"role": "tool", "content": "42"}),
        request(USER, {"role": "assistant", "content": None, "tool_calls": [{}]}),
        request({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
    ],
)
def test_what_is_more_or_less_than_a_conversation_in_text_is_left_alone(text: str | None) -> None:
    assert messages_of(text) is None


def test_characters_that_no_database_holds_are_replaced() -> None:
    told = messages_of(request({"role": "user", "content": "a\0b\ud800c"}))
    assert told == [{"role": "user", "content": "a\ufffdb\ufffdc"}]


def test_the_last_user_message_is_what_prompts_are_compared_by() -> None:
    messages = [USER, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]
    assert last_user_text(messages) == "and now?"
    assert last_user_text([{"role": "system", "content": "x"}]) == ""


def test_the_hash_of_an_example_does_not_hang_on_the_order_of_keys() -> None:
    assert content_hash([USER], "a") == content_hash([dict(reversed(USER.items()))], "a")
    assert content_hash([USER], "a") != content_hash([USER], "b")


def test_base_examples_are_read_from_the_models_file(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    line = json.dumps({"messages": [USER, {"role": "assistant", "content": "hi"}]})
    file.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\n{line}".encode())
    rows = base_examples(Model(name="m", examples=str(file)))
    assert [(row.prompt, row.answer) for row in rows] == [("hello", "hi")] * 2


def test_the_starter_brings_its_own_and_other_bases_bring_none() -> None:
    assert len(base_examples(Model(name="m"))) > 1000
    assert base_examples(Model(name="m", base="acme/chat")) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2: is not JSON"),
        ("[]", "line 2: messages"),
        (json.dumps({"messages": [USER]}), "at least"),
        (json.dumps({"messages": [USER, USER]}), "last must be the assistant's"),
        (
            json.dumps({"messages": [USER, {"role": "assistant", "content": " "}]}),
            "last must be the assistant's",
        ),
        (
            json.dumps(
                {"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]}
            ),
            "no user",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "examples.jsonl"
    good = json.dumps({"messages": [USER, {"role": "assistant", "content": "hi"}]})
    file.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=told) as caught:
        base_examples(Model(name="m", examples=str(file)))
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        base_examples(Model(name="m", examples=str(tmp_path / "nothing.jsonl")))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match="cannot be read"):
        base_examples(Model(name="m", examples=str(tmp_path / "bytes.jsonl")))
