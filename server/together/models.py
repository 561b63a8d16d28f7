"""Models and answers in the form of Together's API: what can be called, and the routes on which it answers."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from server.application import DIRECT
from server.completion import Completion
from server.dialects.completions import CHAT, COMPLETIONS
from server.dialects.embeddings import EMBEDDINGS
from server.openapi import ChatOperation, CompletionOperation, EmbeddingOperation
from server.request import COUNTED, SCOPES, STRICT, GatewayRequest, Parts
from server.routes.completions import asked
from server.routes.models import card_of, cards_of, retire_named
from server.together.views import ModelObject, ModelPage, model_object

_READ = {SCOPES: ("infer", "review", "train"), STRICT: True}
_ADMIN = {SCOPES: ("admin",), STRICT: True}
_INFER = {SCOPES: ("infer",), COUNTED: True, DIRECT: True}
_DOOR = "/together"
_Page = Annotated[int, QueryParameter(ge=1, le=10_000)]


@post(_DOOR + CHAT.path, status_code=200, opt=_INFER, operation_class=ChatOperation)
async def chat_completion(request: GatewayRequest, gateway: Parts) -> Completion:
    """As `/v1/chat/completions`."""
    return await asked(request, gateway, CHAT)


@post(_DOOR + COMPLETIONS.path, status_code=200, opt=_INFER, operation_class=CompletionOperation)
async def completion(request: GatewayRequest, gateway: Parts) -> Completion:
    """As `/v1/completions`."""
    return await asked(request, gateway, COMPLETIONS)


@post(_DOOR + EMBEDDINGS.path, status_code=200, opt=_INFER, operation_class=EmbeddingOperation)
async def embeddings(request: GatewayRequest, gateway: Parts) -> Completion:
    """As `/v1/embeddings`."""
    return await asked(request, gateway, EMBEDDINGS)


@get("/together/v2/projects/{project_id:str}/models", opt=_READ)
async def models(
    project_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    after: FromQuery[str | None] = None,
    limit: _Page = 1000,
    organization_id: FromQuery[str | None] = None,
    visibility: FromQuery[str | None] = None,
) -> ModelPage:
    """The registered models that the key is for, and `ft:…`. There are no projects: any name of one will do.

    `organization_id` and `visibility` are taken and without effect.
    """
    cards = sorted(cards_of(request.user, gateway.live.current), key=lambda card: card.id)
    left = [card for card in cards if after is None or card.id > after]
    shown = [model_object(card, project_id) for card in left[:limit]]
    return ModelPage(data=shown, next_cursor=shown[-1].id if len(left) > limit else None)


@get("/together/v2/projects/{project_id:str}/models/{name:str}", opt=_READ)
async def model(
    project_id: FromPath[str], name: FromPath[str], request: GatewayRequest, gateway: Parts
) -> ModelObject:
    """One of them, or one of a model's versions as `name@version`."""
    return model_object(card_of(name, request.user, await gateway.live.with_name(name)), project_id)


@delete("/together/v2/projects/{project_id:str}/models/{name:str}", status_code=200, opt=_ADMIN)
async def remove(
    project_id: FromPath[str], name: FromPath[str], request: GatewayRequest, gateway: Parts
) -> Response[dict[str, str]]:
    """Retire a version, named as `name@version` or `ft:…`; 202 while something holds its files."""
    done = await retire_named(name, request.user, gateway)
    return Response({}, status_code=200 if done.removed else 202)


ROUTES = [chat_completion, completion, embeddings, models, model, remove]
