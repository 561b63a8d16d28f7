"""`/v1/chat/completions` and `/v1/completions`: OpenAI's, and what vLLM speaks itself."""

from __future__ import annotations

from server.answers import read_answer
from server.body import Body, read_chat, read_completion
from server.dialects.dialect import Dialect, as_openai, whole
from server.events import Events


def _forwarded(body: Body, asked: str, _identifier: str) -> bytes:
    return body.forwarded(asked)


def _stream(body: Body, asked: str) -> Events:
    return Events(body.shows_usage, asked)


CHAT = Dialect(
    "/v1/chat/completions",
    "chat",
    read_chat,
    _forwarded,
    read_answer,
    _stream,
    as_openai,
    whole,
    constrains=True,
)
COMPLETIONS = CHAT._replace(path="/v1/completions", operation="text_completion", read=read_completion)
