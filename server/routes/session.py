"""`/session`: a key exchanged for a cookie, so that pages need not keep the key."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from litestar import Response, delete, post
from litestar.params import JSONBody
from msgspec import Struct

from feedback.errors import NoKeyError, NotAllowedError
from server.access import caller_with
from server.cookies import cookies_gone, cookies_of
from server.loopback import is_own_origin
from server.request import OPEN, SCOPES, GatewayRequest, Parts, caller_of, count
from server.wire import SignIn

_OPEN = {SCOPES: OPEN}


class SessionView(Struct):
    """Whose session it is, what it may, and when it ends."""

    key_id: str
    owner: str
    scopes: list[str]
    expires: datetime


@post("/session", opt=_OPEN, include_in_schema=False, status_code=201)
async def sign_in(data: JSONBody[SignIn], request: GatewayRequest, gateway: Parts) -> Response[SessionView]:
    """Begin a session of a key. It ends with its key, or by itself after `server.session_hours`."""
    headers, now = dict(request.scope["headers"]), gateway.now()
    if b"origin" in headers and not is_own_origin(headers):
        raise NotAllowedError("a page of another site cannot sign anybody in here")
    grant, caller = caller_with(data.key, gateway.live.current, now)
    count(request, caller)
    cookie, ticket = gateway.sessions.begin(grant.id, grant.expires, now)
    # Behind a proxy that ends TLS, only the browser's own word says that it was there.
    secure = request.scope["scheme"] == "https" or headers.get(b"origin", b"").lower().startswith(b"https:")
    return Response(
        SessionView(grant.id, caller.owner, sorted(grant.scopes), ticket.expires),
        status_code=201,
        cookies=cookies_of(cookie, ticket, now, secure),
        headers={"cache-control": "no-store"},
    )


@delete("/session", opt=_OPEN, include_in_schema=False, status_code=204)
async def sign_out(request: GatewayRequest) -> Response[None]:
    """End the browser's session."""
    with suppress(NoKeyError):  # one that has ended already
        caller_of(request)
    return Response(None, status_code=204, cookies=cookies_gone())


ROUTES = [sign_in, sign_out]
