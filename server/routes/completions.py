"""`/v1/chat/completions` and `/v1/completions`: the routes that answer."""

from __future__ import annotations

from litestar import post

from feedback.errors import BadFieldError
from feedback.ids import new_id
from feedback.registry.arms import unit_of
from server.access import Caller
from server.application import DIRECT
from server.body import Body, read_chat, read_completion
from server.completion import Completion
from server.gateway import Gateway
from server.openapi import ChatOperation, CompletionOperation
from server.request import COUNTED, SCOPES, GatewayRequest, Parts
from server.routing import choose, is_pinned

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


def begin(
    gateway: Gateway,
    caller: Caller,
    path: str,
    body: Body,
    purpose: str,
    named: str | None = None,
    traceparent: str | None = None,
) -> Completion:
    """Choose who answers; `named` is the conversation as the client names it. Raises what `choose` and `need_model` do."""
    conversation = body.conversation(named)
    stays = None
    if conversation is not None and purpose == "production" and body.goes_on(conversation):
        stays = gateway.conversations.version(body.model, conversation)
    now = gateway.now()
    identifier = new_id(now)
    unit = unit_of(body.user, conversation, identifier) if purpose == "production" else None
    route = choose(body.model, gateway.live.current, stays, unit)
    caller.need_model(route.model)
    adapter = None if is_pinned(body.model) else route.adapter
    if adapter is not None and gateway.adapter_watch.problem(adapter):
        # the files of a challenger, or of a conversation's version, may be bad: the champion serves on
        route = choose(body.model, gateway.live.current)
    traces = gateway.traces
    trace = None if traces is None else traces.begin(path, route, traceparent)
    return Completion(gateway, path, body, route, caller, purpose, conversation, identifier, now, trace)


ROUTES = [chat_completion, completion]
