"""How vLLM answers in the APIs beside chat completions, as far as its clients look."""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Json = dict[str, Any]


class Shape(NamedTuple):
    """One API's answers."""

    whole: Callable[[dict[str, str], Json, str], Json]
    """By headers, body and text."""
    events: Callable[[dict[str, str], Json, list[str]], Iterator[Json]]


def _response(_headers: dict[str, str], body: Json, text: str, status: str = "completed") -> Json:
    said: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": [said]}
    count = len(text.split())
    return {
        "id": body.get("request_id") or f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": body["model"],
        "status": status,
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 7,
            "output_tokens": count,
            "total_tokens": 7 + count,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _response_events(headers: dict[str, str], body: Json, pieces: list[str]) -> Iterator[Json]:
    whole = _response(headers, body, "".join(pieces))
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    events: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
    ]
    events += [
        {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in pieces
    ]
    text = "".join(pieces)
    events += [
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**part, "text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": whole["output"][0]},
        {"type": "response.completed", "response": whole},
    ]
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _message(headers: dict[str, str], body: Json, text: str) -> Json:
    return {
        "id": f"chatcmpl-{headers.get('x-request-id', 'none')}",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "model": body["model"],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": len(text.split())},
    }


def _message_events(headers: dict[str, str], body: Json, pieces: list[str]) -> Iterator[Json]:
    whole = _message(headers, body, "".join(pieces))
    begun = {**whole, "content": [], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 0}}
    yield {"type": "message_start", "message": begun}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for piece in pieces:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": whole["usage"]}
    yield {"type": "message_stop"}


def _vectors(headers: dict[str, str], body: Json, _text: str) -> Json:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: Any = [0.5, -0.25]
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
    return {
        "id": f"embd-{headers.get('x-request-id', 'none')}",
        "object": "list",
        "model": body["model"],
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(texts))],
        "usage": {"prompt_tokens": 3 * len(texts), "total_tokens": 3 * len(texts)},
    }


def _none(_headers: dict[str, str], _body: Json, _pieces: list[str]) -> Iterator[Json]:
    yield from ()


SHAPES = {
    "/v1/responses": Shape(_response, _response_events),
    "/v1/messages": Shape(_message, _message_events),
    "/v1/embeddings": Shape(_vectors, _none),
}
