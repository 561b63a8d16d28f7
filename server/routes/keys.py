"""`/v1/keys…`: who may call, as `starloop keys` has it. A new key's secret is in the answer that makes it, and nowhere else."""

from __future__ import annotations

from datetime import datetime

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from feedback.access.audit import note
from feedback.access.expiry import parse_expiry
from feedback.access.keys import create_key, list_keys, revoke_key
from feedback.access.limits import Limits
from feedback.errors import BadFieldError, NotAllowedError
from server.access import Caller
from server.request import SCOPES, GatewayRequest, Parts, identifier
from server.views import Listed, view
from server.wire import NewKey

_ADMIN = {SCOPES: ("admin",)}


class KeyView(Struct, kw_only=True):
    """A key without its secret."""

    id: str
    owner: str
    scopes: list[str]
    models: list[str] | None
    limits: dict[str, int] | None
    internal: bool
    created: datetime
    expires: datetime | None
    revoked: datetime | None


class MadeView(Struct):
    key: KeyView
    secret: str
    """It is kept nowhere and never shown again."""


@get("/v1/keys", opt=_ADMIN, sync_to_thread=True)
def keys(request: GatewayRequest, gateway: Parts) -> Listed[KeyView]:
    """All keys, oldest first, revoked ones and the loop's own too."""
    need_all_models(request.user)
    with gateway.database.reading() as session:
        return Listed([view(KeyView, key) for key in list_keys(session)])


@post("/v1/keys", status_code=201, opt=_ADMIN, sync_to_thread=True)
def create(data: JSONBody[NewKey], request: GatewayRequest, gateway: Parts) -> Response[MadeView]:
    """Make a key. Once there is one, programs on this machine need one too."""
    caller, now = request.user, gateway.now()
    need_all_models(caller)
    unknown = [name for name in data.models or () if name not in gateway.live.current.models]
    if unknown:
        raise BadFieldError("models", f"no model is named {', '.join(unknown)[:100]}")
    wanted = data.limits
    limits = None if wanted is None else Limits(wanted.rpm, wanted.tpm, wanted.concurrent)
    expires = None if data.expires is None else parse_expiry(data.expires, now)
    with gateway.database.session() as session:
        key, secret = create_key(
            session,
            data.scopes,
            data.owner.strip() or caller.owner,
            data.models,
            now,
            None if limits == Limits() else limits,
            expires,
        )
        facts = {"scopes": key.scopes, "models": key.models, "limits": key.limits, "expires": key.expires}
        note(session, caller.actor, "key.create", key.id, now, owner=key.owner, **facts)
        session.commit()
        made = MadeView(view(KeyView, key), secret)
    gateway.live.refresh()
    return Response(made, status_code=201, headers={"cache-control": "no-store"})


@post("/v1/keys/{key_id:str}/revoke", status_code=200, opt=_ADMIN, sync_to_thread=True)
def revoke(key_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> KeyView:
    """Close a key for good, with every session of it. All workers refuse it within a second."""
    need_all_models(request.user)
    with gateway.database.session() as session:
        key = revoke_key(session, identifier(key_id, "a key"), gateway.now())
        note(session, request.user.actor, "key.revoke", key.id, gateway.now(), owner=key.owner)
        session.commit()
        shown = view(KeyView, key)
    gateway.live.refresh()
    return shown


def need_all_models(caller: Caller) -> None:
    """Raises `NotAllowedError` for a key that is for some models: what a key may reach must not grow by itself."""
    if caller.models is not None:
        raise NotAllowedError("keys are made and closed with a key for all models, and this one is for some")


ROUTES = [keys, create, revoke]
