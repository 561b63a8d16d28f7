"""What every handler is given: the request, and who it comes from."""

from __future__ import annotations

import re
from collections.abc import Set
from functools import cache
from typing import Annotated, Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from litestar.types import HTTPReceiveMessage, WebSocketReceiveMessage
from sqlmodel import Session

from feedback.errors import BadFieldError, BadInputError
from feedback.ids import parse_id
from feedback.registry.models import get_model
from server.access import Caller, bearer, identify
from server.cookies import check_change, session_cookie
from server.decoding import decode_body, decoder_of, text_of
from server.gateway import Gateway
from server.head import check_head

SCOPES = "scopes"
OPEN = "open"
"""In a route's `opt`: anyone, also without a key. A route that declares nothing wants any key."""
COUNTED = "counted"
"""In a route's `opt`: it holds the caller to the key's limits itself."""
STRICT = "strict"
"""In a route's `opt`: query parameters that it does not have are refused, where Litestar would pass over them."""

UNASKABLE = frozenset('"\\\0')
"""Characters that no database takes in the path of a JSON key."""
_PAIR = re.compile(r"metadata\[(.{0,64})\]", re.DOTALL)

Parts = NamedDependency[Gateway]
Limit = Annotated[int, QueryParameter(ge=1, le=1000)]
"""Items on a page of a list."""


class GatewayRequest(Request[Caller, None, State]):
    """A request whose body is text, and whose `user` is the caller that `admit` let in."""

    _whole: bytes | None = None

    async def body(self) -> bytes:
        """The body. Raises `BadInputError` when it is cut off, empty or not UTF-8, which every JSON is."""
        if self._whole is None:  # once only: after its end, the next message is that the client has gone
            try:
                self._whole = await self._read()
            except (
                InternalServerException
            ):  # Litestar's word for a client that went away, or sent broken chunks
                raise BadInputError(
                    "the request's body ended before it was complete; send it again"
                ) from None
        text_of(self._whole)
        return self._whole

    async def _read(self) -> bytes:
        """Take a body that comes in one piece, as nearly all do; Litestar's own way to read one costs ten times that.

        Any other, and one above the limit, is left to Litestar, first piece included.
        """
        receive = self.receive
        first = await receive()
        limit = self.app.state.gateway.settings.server.body_limit
        if first["type"] == "http.request" and not first.get("more_body") and len(first["body"]) <= limit:
            return first["body"]
        pieces = [first]

        async def again() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            return pieces.pop() if pieces else await receive()

        self.receive = again
        return await super().body()

    async def json(self) -> Any:
        """The body as the handler's `data` wants it; strict, where Litestar would take "5" for 5.

        Raises `BadInputError`.
        """
        wanted = self.route_handler.parsed_fn_signature.parameters["data"].annotation
        return decode_body(await self.body(), decoder_of(wanted))


def only_query(request: Request[Any, Any, Any], known: Set[str]) -> None:
    """Raises `BadFieldError` for a query parameter that the route does not have, which Litestar would pass over."""
    for name in request.query_params:
        if name not in known:
            raise BadFieldError(name[:60], "is no parameter of this")


def metadata_filter(request: Request[Any, Any, Any], known: Set[str]) -> dict[str, str]:
    """The `metadata[KEY]=VALUE` parameters of OpenAI's lists. Raises `BadFieldError` for any other that is not `known`."""
    wanted = {}
    for name, value in request.query_params.items():
        if name in known:
            continue
        found = _PAIR.fullmatch(name)
        if found is None:
            raise BadFieldError(name[:60], "is no parameter of this")
        if not found[1] or UNASKABLE.intersection(found[1]):
            raise BadFieldError(name[:60], "is no key of metadata that can be asked for")
        wanted[found[1]] = str(value)
    return wanted


def listed_model(caller: Caller, session: Session, model: str | None) -> str | None:
    """The model to list things of, when `model` is asked for; None is all.

    Raises as `Caller.narrowed` does, and `NotFoundError` for a model that there is not: an empty list would say there is
    nothing of it.
    """
    wanted = caller.narrowed(model)
    if model is not None:
        get_model(session, model)
    return wanted


def identifier(text: str, what: str) -> str:
    """An id out of an address. Raises `BadFieldError` for what cannot be one."""
    try:
        return parse_id(text)
    except BadFieldError:
        raise BadFieldError(
            "id", f"{text[:60]!r} is not the id of {what}; a list of them shows their ids"
        ) from None


async def admit(request: Request[Any, Any, Any]) -> None:
    """Let in who may use the route, and note who it is; runs before the body is read.

    Raises `BadInputError`, `NoKeyError` or `NotAllowedError`. A hook and not one of Litestar's guards, for each of which it copies the
    handler: that cost 20 µs a request.
    """
    check_head(request.scope["headers"])
    options = request.route_handler.opt
    needed = options.get(SCOPES, ())
    if needed == OPEN:
        return
    caller = caller_of(request)
    if needed:
        caller.need(*needed)
    if COUNTED not in options:
        count(request, caller)
    request.scope["user"] = caller
    if STRICT in options and request.scope["query_string"]:
        only_query(request, _query_of(request.route_handler))


@cache
def _query_of(handler: BaseRouteHandler) -> frozenset[str]:
    """The query parameters of a route."""
    parameters = handler.parsed_fn_signature.parameters
    return frozenset(
        kind.query or name
        for name, field in parameters.items()
        if isinstance(kind := field.kwarg_definition, QueryParameter)
    )


def caller_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Caller:
    """Who is calling, by key or by a session of the pages.

    Raises `NoKeyError`, `NotAllowedError` for a change by session that none of our pages asked for, or
    `UnavailableError` when no key could ever be read.
    """
    gateway: Gateway = connection.app.state.gateway
    client = connection.scope["client"]
    peer, headers = client[0] if client else None, dict(connection.scope["headers"])
    now, snapshot = gateway.now(), gateway.live.current
    cookie = None if bearer(headers) is not None else session_cookie(connection.scope["headers"])
    ticket = None if cookie is None else gateway.sessions.read(cookie, now)
    caller = identify(peer, headers, snapshot, now, None if ticket is None else ticket.key_id)
    if ticket is not None and caller.key_id == ticket.key_id:
        check_change(str(connection.scope.get("method")), headers, ticket)
    return caller


def count(connection: ASGIConnection[Any, Any, Any, Any], caller: Caller) -> None:
    """Count a request of a key that may make only so many. Raises `LimitReachedError` for one too many."""
    if caller.limits is not None and caller.key_id is not None:
        gateway: Gateway = connection.app.state.gateway
        gateway.counters.count(caller.key_id, caller.limits, gateway.now().timestamp())
