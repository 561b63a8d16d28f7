"""`/v1/messages`: Anthropic's Messages API, which vLLM speaks itself."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from feedback.datasets.tool_calls import answer_text
from feedback.errors import BadFieldError
from server.answers import Facts, decoded
from server.body import (
    MESSAGES,
    Body,
    Content,
    Message,
    Texts,
    bounded,
    optional,
    read_body,
    required,
    texts_of,
)
from server.dialects.dialect import Dialect, whole
from server.dialects.named_events import NamedEvents, Shape, event
from server.errors import Failure

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Why an answer ended, in the words of chat completions, which the rules of triage know."""


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Block(Struct):
    type: str = ""
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Answer(Struct):
    content: list[_Block]
    model: str = ""
    stop_reason: str | None = None
    usage: _Usage | None = None


_content = msgspec.json.Decoder(Content)
_answer = msgspec.json.Decoder(_Answer)


def error_body(failure: Failure) -> bytes:
    """An error in the shape of the Messages API."""
    return msgspec.json.encode(_error(failure))


def _error(failure: Failure) -> dict[str, Any]:
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": failure.message}}


def _read(data: bytes) -> Body:
    body = read_body(data, _texts)
    user = body.user or (body.metadata or {}).get("user_id")
    return body._replace(user=None if user is None else bounded(user, "metadata.user_id"), lists=False)


def _texts(fields: dict[str, Raw]) -> Texts:
    messages = required(fields, "messages", MESSAGES)
    if not messages:
        raise BadFieldError("messages", "is empty; send at least one message")
    system = optional(fields, "system", _content)
    return texts_of(messages if not system else [Message("system", system), *messages])


def _forwarded(body: Body, asked: str, _identifier: str) -> bytes:
    return msgspec.json.encode({**body.fields, "model": asked})


def _read_answer(content: bytes, asked: str) -> Facts:
    return _facts(decoded(_answer, content, asked, "message"))


def _facts(answer: _Answer) -> Facts:
    usage = answer.usage or _Usage()
    output = "".join(block.text or "" for block in answer.content if block.type == "text")
    calls = [_call(block) for block in answer.content if block.type == "tool_use"]
    output = answer_text({"content": output, "tool_calls": calls})
    reason = _REASONS.get(answer.stop_reason or "", answer.stop_reason)
    return Facts(output, reason, usage.input_tokens, usage.output_tokens)


def _call(block: _Block) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _assemble(events: list[dict[str, Any]]) -> tuple[str | None, Facts, str | None]:
    whole: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    failed: str | None = None
    for one in events:
        kind, index = one.get("type"), one.get("index", 0)
        if kind == "message_start":
            whole = dict(one.get("message") or {})
        elif kind == "content_block_start":
            blocks[index] = dict(one.get("content_block") or {})
        elif kind == "content_block_delta":
            _grow(blocks.setdefault(index, {"type": "text"}), one.get("delta") or {})
        elif kind == "message_delta":
            whole.update(one.get("delta") or {})
            whole["usage"] = {**(whole.get("usage") or {}), **(one.get("usage") or {})}
        elif kind == "error":
            failed = str((one.get("error") or {}).get("message"))
    if not whole:
        return None, Facts(), failed
    whole["content"] = [_closed(blocks[index]) for index in sorted(blocks)]
    try:
        facts = _facts(msgspec.convert(whole, _Answer))
    except msgspec.ValidationError:
        facts = Facts()
    return msgspec.json.encode(whole).decode(), facts, failed


def _grow(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("text", "thinking", "signature", "partial_json"):
        if delta.get(name):
            block[name] = (block.get(name) or "") + delta[name]


def _closed(block: dict[str, Any]) -> dict[str, Any]:
    """A block whose input came in pieces, as a plain answer has it."""
    pieces = block.pop("partial_json", None)
    if pieces is not None:
        try:
            block["input"] = msgspec.json.decode(pieces)
        except msgspec.DecodeError:  # it was cut off
            block["input"] = pieces
    return block


def _model(payload: dict[str, Any]) -> str | None:
    message = payload.get("message")
    name = message.get("model") if isinstance(message, dict) else None
    return name if isinstance(name, str) else None


def _failed(failure: Failure, _number: int) -> bytes:
    return event("error", _error(failure))


_SHAPE = Shape(("message_stop",), _model, _assemble, _failed)


def _stream(_body: Body, asked: str) -> NamedEvents:
    return NamedEvents(_SHAPE, asked)


MESSAGES_API = Dialect("/v1/messages", "chat", _read, _forwarded, _read_answer, _stream, error_body, whole)
