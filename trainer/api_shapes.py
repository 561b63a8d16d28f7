"""The two APIs in which another model is asked: OpenAI's chat completions, which most servers speak, and Anthropic's Messages.

Pure: what is sent for a conversation, and what an answer says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from feedback.settings import ApiKind

Messages = Sequence[Mapping[str, Any]]
_VERSION = "2023-06-01"
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Why an answer of Anthropic's ended, in the words of chat completions."""
_SYSTEM = ("system", "developer")
_TEMPERATURE = re.compile(r"""['"`]temperature['"`]|\btemperature:""")
"""The parameter's name, and not a word of the prompt's."""


class Said(NamedTuple):
    """What an answer says of itself; counts are as they came, and may be nothing."""

    text: str
    finish_reason: Any
    tokens_in: Any
    tokens_out: Any


class ApiShape(NamedTuple):
    """One API."""

    path: str
    headers: Callable[[str], dict[str, str]]
    """By the key, which may be empty."""
    body: Callable[[str, Messages, int], dict[str, Any]]
    """By the model's name, the conversation and the longest answer in tokens."""
    read: Callable[[Any], Said]
    """An answer's JSON. Raises `KeyError`, `IndexError`, `TypeError`, `AttributeError` or `ValueError` for what is none."""


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _chat(model: str, messages: Messages, max_tokens: int) -> dict[str, Any]:
    return {"model": model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}


def _read_chat(document: Any) -> Said:
    choice, usage = document["choices"][0], document.get("usage") or {}
    text = choice["message"].get("content") or ""
    return Said(text, choice.get("finish_reason"), usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _anthropic_headers(key: str) -> dict[str, str]:
    return {"anthropic-version": _VERSION, **({"x-api-key": key} if key else {})}


def _messages(model: str, messages: Messages, max_tokens: int) -> dict[str, Any]:
    """System messages stand apart there, wherever they stood."""
    system = "\n\n".join(
        str(one["content"]) for one in messages if one.get("role") in _SYSTEM and one.get("content")
    )
    turns = [one for one in messages if one.get("role") not in _SYSTEM]
    body = _chat(model, turns, max_tokens)
    return {**body, "system": system} if system else body


def _read_message(document: Any) -> Said:
    usage = document.get("usage") or {}
    text = "".join(block["text"] for block in document["content"] if block.get("type") == "text")
    reason = document.get("stop_reason")
    return Said(
        text, _REASONS.get(str(reason), reason), usage.get("input_tokens"), usage.get("output_tokens")
    )


SHAPES: dict[ApiKind, ApiShape] = {
    "openai": ApiShape("/chat/completions", _bearer, _chat, _read_chat),
    "anthropic": ApiShape("/messages", _anthropic_headers, _messages, _read_message),
}


def otherwise(body: Mapping[str, Any], problem: str) -> dict[str, Any] | None:
    """The same question for a model that refuses a parameter of it, by what it says; None where it is no such refusal.

    Models that reason want `max_completion_tokens` and no temperature of ours.
    """
    if "max_completion_tokens" in problem and "max_tokens" in body:
        changed = dict(body)
        changed["max_completion_tokens"] = changed.pop("max_tokens")
        return changed
    if _TEMPERATURE.search(problem) and "temperature" in body:
        return {name: value for name, value in body.items() if name != "temperature"}
    return None
