"""`/health/…`: whether the process lives, and which parts it is missing."""

from __future__ import annotations

from litestar import MediaType, Response, get, head
from msgspec import Struct

from server.gateway import Gateway
from server.request import OPEN, SCOPES, Parts

_OPEN = {SCOPES: OPEN}


class Live(Struct):
    status: str


class DatabaseHealth(Struct):
    ok: bool
    problem: str | None
    snapshot_age_seconds: float | None
    """How old the view of keys and routes is; null when there never was one."""


class JournalHealth(Struct):
    ok: bool
    problem: str | None
    backlog: int
    """Records that are not in the database yet."""
    lag_seconds: float


class EngineHealth(Struct):
    ok: bool
    problem: str | None


class Ready(Struct):
    """`ready` says that requests can be answered. With the database away, or without capture, they are: see `missing`."""

    ready: bool
    missing: list[str]
    engines: dict[str, EngineHealth]
    database: DatabaseHealth
    journal: JournalHealth


@get("/health/live", opt=_OPEN)
async def live() -> Live:
    """The process answers."""
    return Live("ok")


@head("/health/live", opt=_OPEN, media_type=MediaType.TEXT)
async def live_head() -> None:
    """The same, for who asks for the status alone."""


@get("/health/ready", opt=_OPEN)
async def ready(gateway: Parts) -> Response[Ready]:
    """Which parts are there; status 503 while requests cannot be answered."""
    found = readiness(gateway)
    return Response(found, status_code=200 if found.ready else 503)


@head("/health/ready", opt=_OPEN, media_type=MediaType.TEXT)
async def ready_head(gateway: Parts) -> Response[None]:
    """The same, for who asks for the status alone."""
    return Response(None, status_code=200 if _serves(gateway) else 503)


def readiness(gateway: Gateway) -> Ready:
    """Which parts are there, as this worker knows it."""
    away = gateway.engines.missing()
    engines = {
        engine.base: EngineHealth(engine.base not in away, away.get(engine.base))
        for engine in gateway.settings.engine
    }
    age, problem = gateway.live.age_seconds, gateway.live.problem
    failing = gateway.capture.problem
    missing = [f"engine {base}: {why}" for base, why in away.items()]
    if problem is not None:
        missing.append(
            f"database: {problem}" + ("" if age is None else f" (serving on with a view {age:.0f} s old)")
        )
    if failing is not None:
        missing.append(f"journal: {failing}")
    missing += [f"version {name}: {why}" for name, why in gateway.adapter_watch.problems().items()]
    return Ready(
        ready=_serves(gateway),
        missing=missing,
        engines=engines,
        database=DatabaseHealth(problem is None, problem, None if age is None else round(age, 3)),
        journal=JournalHealth(
            failing is None, failing, gateway.journal.backlog(), round(gateway.drainer.lag_seconds, 3)
        ),
    )


def _serves(gateway: Gateway) -> bool:
    """Every engine is there, and keys and routes were read once."""
    return not gateway.engines.missing() and gateway.live.age_seconds is not None


ROUTES = [live, live_head, ready, ready_head]
