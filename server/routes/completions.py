"""`/v1/chat/completions` and `/v1/completions`: the routes that answer."""

from __future__ import annotations

from litestar import post

from feedback.errors import BadFieldError
from server.application import DIRECT
from server.body import Body, read_chat, read_completion
from server.completion import Completion, begin
from server.gateway import Gateway
from server.openapi import ChatOperation, CompletionOperation
from server.request import COUNTED, SCOPES, GatewayRequest, Parts

_PURPOSES = ("production", "evaluation", "replay")
_INFER = {SCOPES: ("infer",), COUNTED: True, DIRECT: True}


@post("/v1/chat/completions", status_code=200, opt=_INFER, operation_class=ChatOperation)
async def chat_completion(request: GatewayRequest, gateway: Parts) -> Completion:
    """Answer a conversation. Takes and gives what OpenAI's API and vLLM do, streaming or not."""
    return _asked(request, gateway, "/v1/chat/completions", read_chat(await request.body()))


@post("/v1/completions", status_code=200, opt=_INFER, operation_class=CompletionOperation)
async def completion(request: GatewayRequest, gateway: Parts) -> Completion:
    """Continue a text. Takes and gives what OpenAI's API and vLLM do, streaming or not."""
    return _asked(request, gateway, "/v1/completions", read_completion(await request.body()))


def _asked(request: GatewayRequest, gateway: Gateway, path: str, body: Body) -> Completion:
    caller = request.user
    purpose = request.headers.get("x-starloop-purpose", "production")
    if purpose not in _PURPOSES:
        raise BadFieldError("x-starloop-purpose", f"{purpose[:40]!r} is none of {', '.join(_PURPOSES)}")
    if purpose != "production":
        caller.need("admin")
    named, trace = request.headers.get("x-starloop-conversation"), request.headers.get("traceparent")
    return begin(gateway, caller, path, body, purpose, named, trace)


ROUTES = [chat_completion, completion]
