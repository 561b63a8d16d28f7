"""`/v1/responses`: OpenAI's Responses API, for one turn at a time.

The engine ignores `X-Request-Id` here and takes the answer's id from the body, so the inference's goes there.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from feedback.datasets.tool_calls import answer_text
from feedback.errors import BadFieldError
from server.answers import Facts, decoded
from server.body import (
    FLAG,
    Body,
    Content,
    Message,
    Texts,
    optional,
    plain_text,
    read_body,
    required,
    texts_of,
)
from server.dialects.dialect import Dialect, as_openai, whole
from server.dialects.named_events import NamedEvents, Shape, event
from server.errors import Failure

PREFIX = "resp_"
_NOT_KEPT = "is not possible here: the engine keeps no answers; send the whole conversation in `input`"


class _Item(Struct):
    type: str | None = None
    role: str | None = None
    content: Content = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Piece(Struct):
    text: str | None = None


class _Output(Struct):
    type: str = ""
    content: list[_Piece] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class _Incomplete(Struct):
    reason: str | None = None


class _Failed(Struct):
    message: str | None = None


class _Response(Struct):
    output: list[_Output]
    model: str = ""
    status: str = "completed"
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None
    error: _Failed | None = None


_input = msgspec.json.Decoder(str | list[_Item])
_text = msgspec.json.Decoder(str | None)
_any = msgspec.json.Decoder(Any)
_response = msgspec.json.Decoder(_Response)


def _read(data: bytes) -> Body:
    body = read_body(data, _texts)
    for name in ("previous_response_id", "conversation"):
        if optional(body.fields, name, _any) is not None:
            raise BadFieldError(name, _NOT_KEPT)
    if optional(body.fields, "background", FLAG):
        raise BadFieldError("background", "is not possible here; wait for the answer, or send a batch")
    return body


def _texts(fields: dict[str, Raw]) -> Texts:
    asked = required(fields, "input", _input)
    if not asked:
        raise BadFieldError("input", "is empty; send a text or at least one message")
    instructions = optional(fields, "instructions", _text)
    messages = [Message("user", asked)] if isinstance(asked, str) else list(map(_message, asked))
    if instructions:
        messages.insert(0, Message("system", instructions))
    return texts_of(messages)


def _message(item: _Item) -> Message:
    """An item as a message; what the model did itself (calls, reasoning) counts as the assistant's."""
    if item.role is not None:
        return Message(item.role, item.content)
    return Message("tool" if item.type == "function_call_output" else "assistant", plain_text(item.content))


def _forwarded(body: Body, asked: str, identifier: str) -> bytes:
    own = {"model": asked, "store": False, "request_id": PREFIX + identifier}
    return msgspec.json.encode({**body.fields, **own})


def _read_answer(content: bytes, asked: str) -> Facts:
    return _facts(decoded(_response, content, asked, "response"))


def _facts(answer: _Response) -> Facts:
    usage = answer.usage or _Usage()
    texts = [
        piece.text or "" for one in answer.output if one.type == "message" for piece in one.content or ()
    ]
    calls = [
        {"id": one.call_id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
        for one in answer.output
        if one.type == "function_call"
    ]
    output = answer_text({"content": "".join(texts), "tool_calls": calls})
    return Facts(output, _reason(answer, bool(calls)), usage.input_tokens, usage.output_tokens)


def _reason(answer: _Response, calls: bool) -> str | None:
    """Why it ended, in the words of chat completions, which the rules of triage know."""
    if answer.status == "incomplete":
        told = answer.incomplete_details.reason if answer.incomplete_details else None
        return "length" if told in (None, "max_output_tokens") else told
    if answer.status != "completed":
        return None
    return "tool_calls" if calls else "stop"


def _assemble(events: list[dict[str, Any]]) -> tuple[str | None, Facts, str | None]:
    failed: str | None = None
    found: Any = None
    said = ""
    for one in events:
        kind = one.get("type")
        if kind == "error":
            failed = str(one.get("message") or one.get("error"))
        elif kind == "response.output_text.delta":
            said += str(one.get("delta") or "")
        found = one["response"] if isinstance(one.get("response"), dict) else found
    if found is None:
        return None, Facts(said or None), failed
    try:
        answer = msgspec.convert(found, _Response)
    except msgspec.ValidationError:
        return msgspec.json.encode(found).decode(), Facts(said or None), failed
    if answer.status == "failed":
        failed = failed or (answer.error and answer.error.message) or "the engine could not answer"
    facts = _facts(answer)
    if not facts.output and said:  # it was cut off: the text is in the pieces alone
        found = {**found, "output_text": said}
        facts = Facts(said, None, facts.prompt_tokens, facts.completion_tokens)
    return msgspec.json.encode(found).decode(), facts, failed


def _model(payload: dict[str, Any]) -> str | None:
    response = payload.get("response")
    name = response.get("model") if isinstance(response, dict) else None
    return name if isinstance(name, str) else None


def _failed(failure: Failure, number: int) -> bytes:
    error = msgspec.json.decode(failure.content)["error"]
    told = {"type": "error", "code": error["code"] or error["type"], "message": failure.message}
    return event("error", {**told, "param": None, "sequence_number": number})


_SHAPE = Shape(("response.completed", "response.incomplete", "response.failed"), _model, _assemble, _failed)


def _stream(_body: Body, asked: str) -> NamedEvents:
    return NamedEvents(_SHAPE, asked)


RESPONSES = Dialect(
    "/v1/responses", "chat", _read, _forwarded, _read_answer, _stream, as_openai, whole, constrains=True
)
