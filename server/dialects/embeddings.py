"""`/v1/embeddings`: vectors of texts, where the engine makes them.

Vectors of two versions cannot be compared, and a promotion would make every index that a client has built worthless: so the
base answers, unless a version is named. Of an answer all is kept but the vectors.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from feedback.errors import BadFieldError
from server.answers import Facts, Usage, decoded
from server.body import Body, Texts, read_body, required
from server.dialects.dialect import Dialect, Stream, as_openai

EMBEDDING = "embedding"
"""The purpose of these requests, which no client can name: nobody learns from a vector."""


class _Answer(Struct):
    data: list[Raw]
    model: str = ""
    usage: Usage | None = None


_answer = msgspec.json.Decoder(_Answer)
_fields = msgspec.json.Decoder(dict[str, Raw])
_items = msgspec.json.Decoder(list[Raw])
_input = msgspec.json.Decoder(Any)


def _read(data: bytes) -> Body:
    body = read_body(data, _texts)
    if body.stream:
        raise BadFieldError("stream", "is not possible: vectors come whole")
    return body


def _texts(fields: dict[str, Raw]) -> Texts:
    if "messages" not in fields and not required(fields, "input", _input):  # vLLM takes a conversation too
        raise BadFieldError("input", "is empty; send a text, or a list of texts or of tokens")
    return Texts(None)


def _forwarded(body: Body, asked: str, _identifier: str) -> bytes:
    return msgspec.json.encode({**body.fields, "model": asked})


def _facts(content: bytes, asked: str) -> Facts:
    answer = decoded(_answer, content, asked, "list of vectors")
    return Facts(prompt_tokens=answer.usage.prompt_tokens if answer.usage else None)


def _kept(content: bytes) -> str:
    """The answer with the number of its vectors in their place; an error as it came."""
    fields: dict[str, Any] = dict(_fields.decode(content))
    if "data" in fields:
        fields["vectors"] = len(_items.decode(fields.pop("data")))
    return msgspec.json.encode(fields).decode()


def _stream(_body: Body, _asked: str) -> Stream:
    raise AssertionError("no body that asks for a stream is read")


EMBEDDINGS = Dialect(
    "/v1/embeddings", "embeddings", _read, _forwarded, _facts, _stream, as_openai, _kept, EMBEDDING
)
