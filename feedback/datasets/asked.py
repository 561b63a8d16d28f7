"""What a stored request asked for, its tools included, in OpenAI's chat form, whichever API it came by. Pure.

An answer that calls a tool can be learned only where it is known what could be called: with its tools, and with what
earlier calls returned. What cannot be told in that form (images, tools of the engine's own) is no conversation here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from feedback.datasets.chat import Messages, messages_of, storable
from feedback.datasets.tool_calls import Tools, plain_call
from feedback.errors import BadFieldError
from feedback.imports.tools import check_calls, check_tools

_REMEMBERED = 256
_WAITS = ("user", "tool")
"""Whose word may be the last before an answer."""


class Asked(NamedTuple):
    """A conversation that waits for its answer."""

    messages: Messages
    tools: Tools = None
    """None where there are none; one list for all requests that offer the same."""


class _NoChatError(Exception):
    """Something in it cannot be told as a chat of texts and calls."""


def asked_of(request: str | None) -> Asked | None:
    """The conversation of a stored request; None for one that is no chat, or whose calls do not go with its tools."""
    plain = messages_of(request)
    if plain is not None:
        return Asked(plain)
    if request is None or '"tools"' not in request:
        return None
    try:
        body = json.loads(request)
        if not isinstance(body, dict) or body.get("functions"):
            return None
        tools = _tools(json.dumps(body["tools"], sort_keys=True))
        messages: Messages = storable(list(_messages(body)))
        # What an earlier version called wrongly is what happened: it is read, and not learned from.
        check_calls([{**one, "weight": 0} for one in messages], tools)
        return Asked(messages, tools) if messages[-1]["role"] in _WAITS else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, BadFieldError, _NoChatError):
        return None


@lru_cache(_REMEMBERED)
def _tools(text: str) -> list[Any]:
    """Tools in OpenAI's form out of any API's; requests repeat theirs, so they are read once and held once."""
    tools = [_tool(one) for one in json.loads(text)]
    check_tools(tools)
    if not tools:
        raise _NoChatError
    return storable(tools)  # type: ignore[no-any-return]


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if "function" in tool:
        return dict(tool)
    if "input_schema" in tool:  # the Messages API's
        function = {"name": tool["name"], "parameters": tool["input_schema"]}
    elif tool.get("type") == "function":  # the Responses API's
        function = {"name": tool["name"], "parameters": tool.get("parameters") or {}}
    else:
        raise _NoChatError
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _messages(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "messages" in body:
        opening, given = body.get("system"), body["messages"]
        found: Iterable[dict[str, Any]] = (one for message in given for one in _turns(message))
    else:
        opening, given = body.get("instructions"), body["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        found = _joined(map(_item, items))
    if opening:
        yield {"role": "system", "content": _text(opening)}
    yield from found


def _turns(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A message of chat completions, or of the Messages API, in which one of the user's may hold what calls returned."""
    role, content = message["role"], message.get("content")
    parts = content if isinstance(content, list) else []
    calls = [plain_call(one) for one in message.get("tool_calls") or ()]
    calls += [_used(part) for part in parts if part["type"] == "tool_use"]
    for part in parts:
        if part["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": part["tool_use_id"], "content": _text(part.get("content"))}
    said = [part for part in parts if part["type"] not in ("tool_use", "tool_result", "thinking")]
    if role == "tool":
        yield {"role": role, "tool_call_id": message["tool_call_id"], "content": _text(content)}
    elif calls:
        yield {"role": role, "content": _text(said or (None if parts else content)), "tool_calls": calls}
    elif said or not parts:
        yield {"role": role, "content": _text(said or content)}


def _used(part: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(part["input"], ensure_ascii=False)
    return plain_call({"id": part["id"], "function": {"name": part["name"], "arguments": arguments}})


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item of the Responses API; an empty object for one that says nothing to anybody."""
    kind = item.get("type")
    if kind == "function_call":
        call = plain_call({"id": item["call_id"], "function": item})
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}
    if kind == "reasoning":
        return {}
    return {"role": item["role"], "content": _text(item["content"])}


def _joined(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the assistant said and called in one turn, which the Responses API gives as several items, as one message."""
    last: dict[str, Any] = {}
    for message in filter(None, messages):
        if last.get("role") == message["role"] == "assistant" and message.get("tool_calls"):
            last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
            continue
        if last:
            yield last
        last = message
    if last:
        yield last


def _text(content: Any) -> str:
    """Text, or parts of text a line each, as the engine joins them."""
    if isinstance(content, list):
        parts = [part["text"] for part in content]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    elif content is None or isinstance(content, str):
        return content or ""
    raise _NoChatError
