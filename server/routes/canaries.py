"""`/v1/models/{name}/canary…`: two versions of a model that answer different users at once, and what these say."""

from __future__ import annotations

import asyncio

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody

from feedback.access.audit import Actor
from feedback.errors import ConflictError
from feedback.registry.arms import open_canary
from feedback.registry.canaries import begin_canary, end_canary, list_canaries
from feedback.registry.models import get_model
from feedback.storage.tables import Canary
from server.gateway import Gateway
from server.promotion import made_warm
from server.request import SCOPES, STRICT, GatewayRequest, Parts
from server.views import CanaryView, Listed, listed, view
from server.wire import EndCanary, NewCanary

_READ = {SCOPES: ("review", "train"), STRICT: True}
_ADMIN = {SCOPES: ("admin",), STRICT: True}


@get("/v1/models/{name:str}/canaries", opt=_READ, sync_to_thread=True)
def canaries(
    name: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    limit: FromQuery[int] = 20,
    cursor: FromQuery[str | None] = None,
) -> Listed[CanaryView]:
    """A model's canaries and watches, newest first, each with its numbers."""
    request.user.need_model(name)
    with gateway.database.reading() as session:
        get_model(session, name)
        return listed(list_canaries(session, name, limit, cursor), _shown)


@post("/v1/models/{name:str}/canary", status_code=201, opt=_ADMIN)
async def begin(
    name: FromPath[str], data: JSONBody[NewCanary], request: GatewayRequest, gateway: Parts
) -> CanaryView:
    """Give a version a share of the model's users, beside the champion: its files are checked and every engine is warmed
    first. The loop promotes it when the users' ratings say so, and takes it back when they or a guardrail do; where its time is up
    before that, one that a person began ends, and a person decides."""
    caller = request.user
    caller.need_model(name)
    actor = Actor("gate" if caller.loop and data.cycle_id is not None else caller.owner, caller.key_id)
    number = data.version.removeprefix(f"{name}@")
    async with made_warm(gateway, name, number):
        row = await asyncio.to_thread(_begin, gateway, name, number, data, actor)
    await asyncio.to_thread(gateway.live.refresh)
    return _shown(row)


@post("/v1/models/{name:str}/canary/end", status_code=200, opt=_ADMIN, sync_to_thread=True)
def end(
    name: FromPath[str], data: JSONBody[EndCanary], request: GatewayRequest, gateway: Parts
) -> CanaryView:
    """End the canary or the watch that goes on; the champion stays who it is."""
    caller = request.user
    caller.need_model(name)
    with gateway.database.session() as session:
        get_model(session, name)
        row = open_canary(session, name)
        if row is None:
            raise ConflictError(f"there is no canary of {name!r} to end")
        actor = Actor(caller.owner, caller.key_id)
        row = end_canary(session, row.id, "withdrawn", data.reason, actor, gateway.now())
        session.commit()
    gateway.live.refresh()
    return _shown(row)


def _begin(gateway: Gateway, name: str, number: str, data: NewCanary, actor: Actor) -> Canary:
    wanted = gateway.settings.canary
    share = data.share if data.share is not None else wanted.share
    hours = data.hours if data.hours is not None else wanted.hours
    expected = None if data.instead_of is None else data.instead_of.removeprefix(f"{name}@")
    with gateway.database.session() as session:
        row = begin_canary(
            session, name, number, share, hours, data.reason, actor, data.cycle_id, gateway.now(), expected
        )
        session.commit()
        return row


def _shown(row: Canary) -> CanaryView:
    return view(CanaryView, row)


ROUTES = [canaries, begin, end]
