"""Answers that call tools, as text and as the assistant's turn: an example has one text to be known, judged and shown by.

The text of a turn that only calls is its `tool_calls` as JSON, as captured answers have it; of one that says something
too, an object of both. In a conversation without tools every text is only text. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

Tools = list[Any] | None
_TURN = {"role", "content", "tool_calls", "name", "refusal"}


def answer_text(turn: Mapping[str, Any]) -> str:
    """The text that stands for an assistant's turn."""
    calls, content = turn.get("tool_calls"), turn.get("content") or ""
    if not calls:
        return str(content)
    return json.dumps({"content": content, "tool_calls": calls} if content else calls, ensure_ascii=False)


def turn_of(answer: str, tools: Sequence[Any] | None) -> dict[str, Any]:
    """The assistant's turn that a text stands for; `tools` are those that were offered in its conversation."""
    calls, content = calls_of(answer) if tools else (None, "")
    if calls is None:
        return {"role": "assistant", "content": answer}
    return {"role": "assistant", "content": content, "tool_calls": calls}


def calls_of(answer: str) -> tuple[list[dict[str, Any]] | None, str]:
    """The calls that a text stands for, None where it is only text, and what is said beside them."""
    if not answer.lstrip().startswith(("[", "{")):
        return None, ""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None, ""
    content = ""
    if isinstance(value, dict) and "tool_calls" in value and value.keys() <= _TURN:
        value, content = value["tool_calls"], value.get("content") or ""
    if not (isinstance(value, list) and isinstance(content, str) and value and all(map(_is_call, value))):
        return None, ""
    return [plain_call(call, place) for place, call in enumerate(value, 1)], content


def plain_call(call: Mapping[str, Any], place: int = 1) -> dict[str, Any]:
    """A call with nothing but what OpenAI's form has: streams number theirs, and people leave ids out."""
    function = call["function"]
    asked = {"name": function["name"], "arguments": function["arguments"]}
    return {"id": call.get("id") or f"call_{place}", "type": "function", "function": asked}


def broken_call(calls: Iterable[Mapping[str, Any]]) -> str | None:
    """What is wrong with calls whatever their tools, as in "the answer …"; None where nothing is."""
    for call in calls:
        if not isinstance(_with_object(call)["function"]["arguments"], dict):
            return f"calls {call['function']['name'][:64]} with arguments that are no JSON object"
    return None


def plain_answer(answer: str, tools: Sequence[Any] | None) -> str:
    """The text as `answer_text` would write its turn."""
    return answer_text(turn_of(answer, tools))


def shown(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with their texts, calls too, as content: for people to read."""
    return [{"role": one.get("role"), "content": answer_text(one)} for one in messages]


def with_objects(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the arguments of calls as objects: what chat templates and TRL read, and engines hand on."""
    return [
        {**one, "tool_calls": [_with_object(call) for call in one["tool_calls"]]}
        if one.get("tool_calls")
        else dict(one)
        for one in messages
    ]


def call_key(answer: str) -> str | None:
    """A text that is equal for turns with the same calls, whatever their ids; None for one without calls."""
    asked = asked_calls(answer)
    return None if asked is None else json.dumps([calls_of(answer)[1].strip(), asked], sort_keys=True)


def asked_calls(answer: str) -> list[list[Any]] | None:
    """Name and arguments of each call that a text stands for; None for one without calls."""
    calls, _ = calls_of(answer)
    if calls is None:
        return None
    return [[call["function"]["name"], _with_object(call)["function"]["arguments"]] for call in calls]


def _is_call(value: Any) -> bool:
    function = value.get("function") if isinstance(value, dict) else None
    return (
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), str)
    )


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    with suppress(
        ValueError, RecursionError
    ):  # a placeholder may have broken it; the text is still what was said
        arguments = json.loads(arguments or "{}")
    return {**call, "function": {**call["function"], "arguments": arguments}}
