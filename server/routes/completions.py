"""The routes that answer: each API in which a model can be asked."""

from __future__ import annotations

from litestar import post

from feedback.errors import BadFieldError
from feedback.tuning.requests import NAMED
from server.application import DIRECT
from server.completion import Completion, begin
from server.dialects.completions import CHAT, COMPLETIONS
from server.dialects.dialect import Dialect
from server.dialects.embeddings import EMBEDDINGS
from server.dialects.messages import MESSAGES_API, error_body
from server.dialects.responses import RESPONSES
from server.errors import TOLD
from server.gateway import Gateway
from server.openapi import (
    ChatOperation,
    CompletionOperation,
    EmbeddingOperation,
    MessagesOperation,
    ResponseOperation,
)
from server.request import COUNTED, SCOPES, GatewayRequest, Parts

_PURPOSES = ("production", "evaluation", "replay")
_INFER = {SCOPES: ("infer",), COUNTED: True, DIRECT: True}


@post(CHAT.path, status_code=200, opt=_INFER, operation_class=ChatOperation)
async def chat_completion(request: GatewayRequest, gateway: Parts) -> Completion:
    """Answer a conversation. Takes and gives what OpenAI's API and vLLM do, streaming or not."""
    return await asked(request, gateway, CHAT)


@post(COMPLETIONS.path, status_code=200, opt=_INFER, operation_class=CompletionOperation)
async def completion(request: GatewayRequest, gateway: Parts) -> Completion:
    """Continue a text. Takes and gives what OpenAI's API and vLLM do, streaming or not."""
    return await asked(request, gateway, COMPLETIONS)


@post(RESPONSES.path, status_code=200, opt=_INFER, operation_class=ResponseOperation)
async def response(request: GatewayRequest, gateway: Parts) -> Completion:
    """Answer in the shape of OpenAI's Responses API, streaming or not, where the engine serves it."""
    return await asked(request, gateway, RESPONSES)


@post(MESSAGES_API.path, status_code=200, opt=_INFER | {TOLD: error_body}, operation_class=MessagesOperation)
async def message(request: GatewayRequest, gateway: Parts) -> Completion:
    """Answer in the shape of Anthropic's Messages API, streaming or not, where the engine serves it."""
    return await asked(request, gateway, MESSAGES_API)


@post(EMBEDDINGS.path, status_code=200, opt=_INFER, operation_class=EmbeddingOperation)
async def embeddings(request: GatewayRequest, gateway: Parts) -> Completion:
    """Vectors of texts, by the base unless a version is named, where the engine makes them."""
    return await asked(request, gateway, EMBEDDINGS)


async def asked(request: GatewayRequest, gateway: Gateway, dialect: Dialect) -> Completion:
    """The answer to a request of one API. Raises what reading it and choosing a version do."""
    body = dialect.read(await request.body())
    caller = request.user
    told = dict(request.scope["headers"])  # a tenth of the time that Litestar's own view of them takes
    purpose = told.get(b"x-starloop-purpose", b"production").decode("latin-1")
    if purpose not in _PURPOSES:
        raise BadFieldError("x-starloop-purpose", f"{purpose[:40]!r} is none of {', '.join(_PURPOSES)}")
    if purpose != "production":
        caller.need("admin")
    if body.model.startswith(NAMED):
        await gateway.live.with_name(body.model)
    named, trace = (_text(told.get(name)) for name in (b"x-starloop-conversation", b"traceparent"))
    return begin(gateway, caller, dialect, body, purpose, named, trace)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


ROUTES = [chat_completion, completion, response, message, embeddings]
