"""Moving a model's champion: sound files, warm on every replica, then one row, then every request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from feedback.access.audit import Act, Actor, note
from feedback.errors import ConflictError, UnsoundAdapterError
from feedback.registry.adapters import adapter_name
from feedback.registry.models import SERVABLE, MoveKind, get_model, move_champion, rollback_target
from feedback.registry.versions import get_version
from server.gateway import Gateway
from server.routing import BASE, Route


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
    instead_of: str | None = None,
) -> Moved:
    """Make a version (or the base) the champion, in the place of the one that it was compared with, where that is said.

    Raises `NotFoundError` for an unknown model or version, `ConflictError` when its state does not allow it,
    `UnsoundAdapterError` when its files are not what was published, `UnavailableError` when no engine can be warmed.
    """
    return await _move(
        gateway, model, version, "promotion", reason, Actor(decided_by, key_id), cycle_id, instead_of
    )


async def roll_back(
    gateway: Gateway,
    model: str,
    reason: str,
    decided_by: str,
    key_id: str | None = None,
    expected: str | None = None,
) -> Moved:
    """Make the champion before this one the champion again, see `rollback_target`.

    Raises `ConflictError` when there is none, or it is not the one that was expected.
    """
    version = await asyncio.to_thread(_version_before, gateway, model)
    if expected not in (None, version):
        raise ConflictError(
            f"a rollback of {model} leads to {version} now, not to {expected}: the champion was moved meanwhile; look again, "
            "nothing was moved"
        )
    return await _move(gateway, model, version, "rollback", reason, Actor(decided_by, key_id), None)


async def _move(
    gateway: Gateway,
    model: str,
    version: str,
    kind: MoveKind,
    reason: str,
    actor: Actor,
    cycle_id: str | None,
    instead_of: str | None = None,
) -> Moved:
    async with made_warm(gateway, model, version) as route:
        moved = await asyncio.to_thread(_write, gateway, route, kind, reason, actor, cycle_id, instead_of)
    await asyncio.to_thread(gateway.live.refresh)
    return moved


@asynccontextmanager
async def made_warm(gateway: Gateway, model: str, version: str) -> AsyncIterator[Route]:
    """The route to a version that may serve, whose files are sound, and that every healthy engine has answered from.

    Raises what `promote` does.
    """
    # Held before its state is read: a retirement that begins now waits until no warm-up can load the version again.
    with gateway.under_way.on(None if version == BASE else adapter_name(model, version)):
        route = await asyncio.to_thread(_sound_route, gateway, model, version)
        await warm(gateway, route)
        yield route


async def warm(gateway: Gateway, route: Route) -> None:
    """Let every healthy replica answer once as this version, whose files must have been checked."""
    replicas = [replica for replica in gateway.engines.of(route.base) if replica.healthy]
    if not replicas:
        gateway.engines.pick(route.base)  # says why there is none
    await asyncio.gather(*(replica.warm(route.adapter) for replica in replicas))


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
    gateway: Gateway,
    route: Route,
    kind: MoveKind,
    reason: str,
    actor: Actor,
    cycle_id: str | None,
    instead_of: str | None,
) -> Moved:
    to = None if route.version == BASE else route.version
    with gateway.database.session() as session:
        now = gateway.now()
        before = get_model(session, route.model).moves
        move = move_champion(
            session, route.model, to, kind, reason, actor.name, cycle_id, now, instead_of=instead_of
        )
        if move.position > before:  # and not one that this cycle made before
            act: Act = "champion.promote" if kind == "promotion" else "champion.rollback"
            facts = {"from": move.from_version or BASE, "to": route.version, "reason": reason}
            note(session, actor, act, route.model, now, move_id=move.id, cycle_id=cycle_id, **facts)
        session.commit()
        return Moved(route.model, route.version, move.from_version or BASE, move.id)
