"""Rows of each shape become OpenAI chats, and what cannot is told with its field and a way to mend it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feedback.errors import BadFieldError
from feedback.imports.shapes import Shape, canonical, mapped, shape_of

ASK = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "On its way."}
COMPARED = {
    "input": {"messages": [ASK], "parallel_tool_calls": True},
    "preferred_output": [ANSWER],
    "non_preferred_output": [ANSWER | {"content": "No."}],
}


@pytest.mark.parametrize(
    ("record", "shape"),
    [
        ({"messages": [ASK, ANSWER]}, "chat"),
        ({"messages": json.dumps([ASK, ANSWER])}, "chat"),
        ({"instruction": "Where is it?", "input": "", "output": "On its way."}, "instruction"),
        ({"prompt": "Where is it?", "completion": "On its way."}, "completion"),
        ({"prompt": [ASK], "completion": [ANSWER]}, "completion"),
        ({"prompt": "Where is it?", "chosen": "On its way.", "rejected": "No."}, "preference"),
        ({"chosen": [ASK, ANSWER], "rejected": [ASK, ANSWER | {"content": "No."}]}, "preference"),
        ({"prompt": [ASK], "chosen": [ANSWER], "rejected": [ANSWER | {"content": "No."}]}, "preference"),
        (COMPARED, "comparison"),
        (
            {
                "input": {"messages": [ASK]},
                "preferred_completion": [ANSWER],
                "non_preferred_completion": [ANSWER | {"content": "No."}],
            },
            "comparison",
        ),
    ],
)
def test_every_shape_is_recognised_and_becomes_the_same_chat(record: dict[str, Any], shape: Shape) -> None:
    assert shape_of(record) == shape
    row = canonical(record, shape, 7)
    assert (row.messages, row.line) == ([ASK, ANSWER], 7)
    assert (row.rejected is not None) == (shape in ("preference", "comparison"))
    (target,) = row.targets()
    assert (target.messages, target.answer) == ([ASK], "On its way.")


def test_a_system_text_and_an_input_stand_where_they_belong() -> None:
    row = canonical(
        {"instruction": "Sum up", "input": "A text", "output": "Short", "system": "Be brief"},
        "instruction",
        1,
    )
    assert [(one["role"], one["content"]) for one in row.messages] == [
        ("system", "Be brief"),
        ("user", "Sum up\n\nA text"),
        ("assistant", "Short"),
    ]


def test_an_answer_of_weight_0_is_context_and_no_target() -> None:
    messages = [ASK, ANSWER | {"weight": 0}, {"role": "user", "content": "And now?"}, ANSWER | {"weight": 1}]
    (target,) = canonical({"messages": messages}, "chat", 1).targets()
    assert [one["content"] for one in target.messages] == ["Where is it?", "On its way.", "And now?"]
    assert all("weight" not in one for one in target.messages)


def test_every_answer_without_a_weight_is_a_target() -> None:
    row = canonical({"messages": [ASK, ANSWER, {"role": "user", "content": "Thanks"}, ANSWER]}, "chat", 1)
    assert [len(one.messages) for one in row.targets()] == [1, 3]


def test_a_mapping_names_columns_and_a_rejected_one_makes_it_a_preference() -> None:
    record = {"q": "Where is it?", "a": "On its way.", "b": "No."}
    assert shape_of(mapped(record, {"prompt": "q", "answer": "a"})) == "completion"
    assert shape_of(mapped(record, {"prompt": "q", "answer": "a", "rejected": "b"})) == "preference"
    with pytest.raises(BadFieldError, match="nope: there is no such column; there are: q, a, b"):
        mapped(record, {"prompt": "nope"})


@pytest.mark.parametrize(
    ("record", "field", "problem"),
    [
        ({"messages": "hello"}, "messages", "and no JSON of one either"),
        ({"messages": {}}, "messages", "must be a list of messages, not an object"),
        ({"messages": [ASK]}, "messages.0.role", "the last message must be the assistant's"),
        ({"messages": [ANSWER]}, "messages.0.role", "begin with the user's message"),
        ({"messages": [ASK, ASK, ANSWER]}, "messages.1.role", "two messages of the user in a row; join them"),
        ({"messages": [ASK, ANSWER, ANSWER]}, "messages.2.role", "two messages of the assistant in a row"),
        (
            {"messages": [ASK, {"role": "system", "content": "x"}, ANSWER]},
            "messages.1.role",
            "move it to the front",
        ),
        (
            {"messages": [ASK, {"role": "tool", "content": "x"}, ANSWER]},
            "messages.1.role",
            "add the call before it",
        ),
        ({"messages": [ASK, {"role": "bot", "content": "x"}]}, "messages.1.role", "must be one of"),
        (
            {"messages": [ASK, {"role": "assistant", "content": " "}]},
            "messages.1.content",
            "write the right answer",
        ),
        ({"messages": [ASK, {"role": "assistant"}]}, "messages.1.content", "must be text, not nothing"),
        ({"messages": [ASK, ANSWER | {"weight": 0.5}]}, "messages.1.weight", "must be 0 or 1"),
        ({"messages": [ASK | {"weight": 1}, ANSWER]}, "messages.0.weight", "only with the assistant's"),
        ({"messages": [ASK, ANSWER | {"weight": 0}]}, "messages", "give one weight 1"),
        ({"messages": [ASK, ANSWER], "tools": "x"}, "tools", "must be a list of objects"),
        ({"messages": [ASK, ANSWER], "tools": [{"a": "\ud800"}]}, "tools", "surrogate pair (\\ud800)"),
        ({"messages": [ASK, ANSWER], "tools": [{"\ud800": 1}]}, "tools", "surrogate pair (\\ud800)"),
        ({"messages": [ASK | {"name": "\udfff"}, ANSWER]}, "messages.0.name", "surrogate pair (\\udfff)"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
            "messages.0.content.0",
            "text",
        ),
        ({"messages": [ASK, {"role": "assistant", "content": "\ud800"}]}, "messages.1.content", "surrogate"),
        (
            {"messages": [ASK, {"role": "assistant", "content": "a\0"}]},
            "messages.1.content",
            "the character NUL",
        ),
        ({"prompt": "x", "completion": 5}, "completion", "must be text, not the number 5"),
        ({"prompt": "", "completion": "y"}, "prompt", "write the prompt"),
        ({"instruction": "x", "output": ""}, "output", "write the right answer"),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "rejected", "is the same as chosen"),
        (
            {"chosen": [ASK, ANSWER], "rejected": [ASK | {"content": "?"}, ANSWER]},
            "rejected",
            "the same prompt",
        ),
        (COMPARED | {"input": "Where is it?"}, "input", "the conversation that was to be answered"),
        (
            COMPARED | {"non_preferred_output": [ANSWER]},
            "non_preferred_output",
            "the same as preferred_output",
        ),
        (COMPARED | {"preferred_output": []}, "preferred_output.0.role", "must be the assistant's"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(record: dict[str, Any], field: str, problem: str) -> None:
    shape = shape_of(record)
    assert shape is not None
    with pytest.raises(BadFieldError) as caught:
        canonical(record, shape, 1)
    assert caught.value.field == field and problem in caught.value.problem


def test_a_row_of_another_shape_than_the_file_is_told() -> None:
    with pytest.raises(
        BadFieldError, match="messages: is missing; rows are read as chat, and this one has: prompt"
    ):
        canonical({"prompt": "x"}, "chat", 1)
