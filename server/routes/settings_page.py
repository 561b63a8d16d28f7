"""`/settings`: keys, raters, the configuration as it holds, and how the parts are."""

from __future__ import annotations

import shutil
from typing import Any, NamedTuple

from litestar import Response, get
from litestar.params import FromQuery

from feedback.access.keys import SCOPES as ALL_SCOPES
from feedback.access.keys import list_keys
from feedback.access.limits import shown_limits
from feedback.errors import UnavailableError
from feedback.registry.models import get_model
from feedback.settings_shown import effective
from feedback.storage.lease import holder_of
from feedback.storage.tables import Key, Lease
from server.access import Caller
from server.gateway import Gateway
from server.rendering import model_page
from server.request import OPEN, SCOPES, GatewayRequest, Parts
from server.routes.health import readiness


class _Part(NamedTuple):
    """One line of the health table."""

    name: str
    well: bool
    told: str


class _Shown(NamedTuple):
    """A key's row."""

    key: Key
    state: str
    limits: str


@get("/settings", opt={SCOPES: OPEN}, include_in_schema=False, sync_to_thread=True)
def settings(
    request: GatewayRequest, gateway: Parts, model: FromQuery[str] = "", revoked: FromQuery[str] = ""
) -> Response[str]:
    """What an administrator looks at; keys and configuration only with a key that is for all models."""

    def shown(caller: Caller, chosen: str) -> dict[str, Any]:
        all_models, keys, leader, away = caller.models is None, [], None, None
        try:
            with gateway.database.reading() as session:
                get_model(session, chosen)
                leader = holder_of(session, "loop", gateway.now())
                if all_models:
                    keys = [_key(key, gateway) for key in list_keys(session) if revoked or not key.revoked]
        except UnavailableError as error:
            away = str(error)
        found = gateway.beliefs.get(chosen)
        return {
            "parts": _parts(gateway, leader, away),
            "all_models": all_models,
            "keys": keys,
            "away": away,
            "keyless": not gateway.live.current.any_key,
            "scopes": ALL_SCOPES,
            "own": caller.key_id,
            "belief": found.value if found else None,
            "problem": found.problem if found else None,
            "weighing": found is None,
            "values": effective(gateway.settings, gateway.origins) if all_models else [],
        }

    return model_page(
        "settings.html", request, gateway, model, ("admin",), {"parts": []}, shown, revoked=revoked
    )


def _key(key: Key, gateway: Gateway) -> _Shown:
    past = key.expires is not None and key.expires <= gateway.now().timestamp()
    state = "revoked" if key.revoked else "expired" if past else "open"
    return _Shown(key, state, shown_limits(key.limits) or "")


def _parts(gateway: Gateway, leader: Lease | None, away: str | None) -> list[_Part]:
    """Each part with how it is, in the order in which a request meets them."""
    ready = readiness(gateway)
    parts = [_Part(f"engine {base}", one.ok, one.problem or "answers") for base, one in ready.engines.items()]
    database = ready.database
    kind = "PostgreSQL" if gateway.settings.database_url.startswith("postgresql") else "SQLite"
    age = database.snapshot_age_seconds
    seen = "" if age is None else f"; keys and routes as of {age:.1f} s ago"
    parts.append(_Part("database", database.ok, f"{kind}: {database.problem or 'answers'}{seen}"))
    journal = ready.journal
    backlog = f"{journal.backlog:,} records wait for the database, the oldest for {journal.lag_seconds:.1f} s"
    parts.append(
        _Part(
            "journal",
            journal.ok,
            journal.problem or (backlog if journal.backlog else "all is in the database"),
        )
    )
    if away is None:
        told = (
            f"led by {leader.holder}"
            if leader
            else "nobody leads: no cycle starts; `starloop up` or `starloop loop` runs one"
        )
        parts.append(_Part("loop", leader is not None, told))
    parts += [_Part(f"version {name}", False, why) for name, why in gateway.adapter_watch.problems().items()]
    parts.append(_disk(gateway))
    return parts


def _disk(gateway: Gateway) -> _Part:
    """Room where the data is; one that has less than a twentieth left is worth a look."""
    try:
        total, _, free = shutil.disk_usage(gateway.settings.directory)
    except OSError as error:
        return _Part("disk", False, f"cannot be looked at: {error.strerror}")
    room = f"{free / 1e9:,.1f} GB of {total / 1e9:,.1f} GB free at {gateway.settings.directory}"
    return _Part("disk", free * 20 >= total, room)


ROUTES = [settings]
