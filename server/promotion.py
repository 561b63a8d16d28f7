"""Moving a model's champion: sound files, warm on every replica, then one row, then every request."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from feedback.access.audit import Act, Actor, note
from feedback.errors import ConflictError, UnsoundAdapterError
from feedback.registry.models import SERVABLE, MoveKind, get_model, move_champion, rollback_target
from feedback.registry.versions import get_version
from server.answers import read_answer, read_error
from server.connections import BrokenAnswerError
from server.gateway import Gateway
from server.replicas import Replica
from server.routing import BASE, Route

_WARM_SECONDS = 120.0


class Moved(NamedTuple):
    """One move of the champion, as it was written."""

    model: str
    version: str
    previous: str
    move_id: str


async def promote(
    gateway: Gateway,
    model: str,
    version: str,
    reason: str,
    decided_by: str,
    cycle_id: str | None,
    key_id: str | None = None,
) -> Moved:
    """Make a version (or the base) the champion.

    Raises `NotFoundError` for an unknown model or version, `ConflictError` when its state does not allow it,
    `UnsoundAdapterError` when its files are not what was published, `UnavailableError` when no engine can be warmed.
    """
    route = await asyncio.to_thread(_sound_route, gateway, model, version)
    return await _move(gateway, route, "promotion", reason, Actor(decided_by, key_id), cycle_id)


async def roll_back(
    gateway: Gateway, model: str, reason: str, decided_by: str, key_id: str | None = None
) -> Moved:
    """Make the champion before this one the champion again. Raises `ConflictError` when there was none."""
    version = await asyncio.to_thread(_version_before, gateway, model)
    route = await asyncio.to_thread(_sound_route, gateway, model, version)
    return await _move(gateway, route, "rollback", reason, Actor(decided_by, key_id), None)


async def _move(
    gateway: Gateway, route: Route, kind: MoveKind, reason: str, actor: Actor, cycle_id: str | None
) -> Moved:
    await warm(gateway, route)
    moved = await asyncio.to_thread(_write, gateway, route, kind, reason, actor, cycle_id)
    await asyncio.to_thread(gateway.live.refresh)
    return moved


async def warm(gateway: Gateway, route: Route) -> None:
    """Let every healthy replica answer once as this version, whose files must have been checked."""
    replicas = [replica for replica in gateway.engines.of(route.base) if replica.healthy]
    if not replicas:
        gateway.engines.pick(route.base)  # says why there is none
    await asyncio.gather(*(_warm(replica, route) for replica in replicas))


async def _warm(replica: Replica, route: Route) -> None:
    asked = route.adapter or replica.base_id
    body = msgspec.json.encode({"model": asked, "prompt": "Hello", "max_tokens": 1, "temperature": 0})
    connection = await replica.connections.take()
    try:
        await connection.send(replica.connections.request("POST", "/v1/completions", body), _WARM_SECONDS)
        content = await connection.read_all(_WARM_SECONDS)
    finally:
        replica.connections.give_back(connection)
    if connection.status != 200:
        told = read_error(content) or f"status {connection.status}"
        raise BrokenAnswerError(f"the engine at {replica.connections.url} does not serve {asked!r}: {told}")
    read_answer(content, asked)


def _sound_route(gateway: Gateway, model: str, version: str) -> Route:
    """The route to a version that may serve and whose files are what was registered: a bad one would harm an engine."""
    with gateway.database.reading() as session:
        base = get_model(session, model).base
        row = None if version == BASE else get_version(session, model, version)
    route = Route(model, version, base)
    if row is not None and route.adapter is not None:
        if row.state not in SERVABLE:
            raise ConflictError(f"{route.name} is {row.state}; only what is {', '.join(SERVABLE)} can serve")
        if gateway.adapters.check(route.adapter) != row.adapter_hash:
            raise UnsoundAdapterError(
                f"{gateway.adapters.path(route.adapter)}: holds other weights than were registered; restore the folder"
            )
    return route


def _version_before(gateway: Gateway, model: str) -> str:
    with gateway.database.reading() as session:
        return rollback_target(session, model) or BASE


def _write(
    gateway: Gateway, route: Route, kind: MoveKind, reason: str, actor: Actor, cycle_id: str | None
) -> Moved:
    to = None if route.version == BASE else route.version
    with gateway.database.session() as session:
        now = gateway.now()
        move = move_champion(session, route.model, to, kind, reason, actor.name, cycle_id, now)
        if move in session.new:  # and not one that this cycle made before
            act: Act = "champion.promote" if kind == "promotion" else "champion.rollback"
            facts = {"from": move.from_version or BASE, "to": route.version, "reason": reason}
            note(session, actor, act, route.model, now, move_id=move.id, cycle_id=cycle_id, **facts)
        session.commit()
        return Moved(route.model, route.version, move.from_version or BASE, move.id)
