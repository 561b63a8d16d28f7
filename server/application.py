"""Litestar, with a short way to the routes where microseconds matter.

Between a request and its handler Litestar resolves parameters and dependencies, opens exit stacks and wraps `send`: more
work than all that the gateway does for an answer. A handler that only takes the request and the gateway (`DIRECT` in its
`opt`) is called without that, behind the same admission and before the same error table. Any address but its exact own
still goes through Litestar.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import Receive, Scope, Send

from feedback.errors import StarloopError
from server.request import GatewayRequest, admit

DIRECT = "direct"


class Answering(Protocol):
    """What a direct handler returns: an ASGI application that knows whether it has begun to answer."""

    begun: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Application(Litestar):
    """One worker's application."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.direct: dict[tuple[str, str], HTTPRouteHandler] = {
            (method, route.path): handler
            for route in self.routes
            if isinstance(route, HTTPRoute)
            for method, (handler, _) in route.route_handler_map.items()
            if handler.opt.get(DIRECT)
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        handler = self.direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await super().__call__(
                scope, receive, _in_a_sentence(send) if scope["type"] == "lifespan" else send
            )
        else:
            await self._answer(handler, scope, receive, send)

    async def _answer(self, handler: HTTPRouteHandler, scope: Scope, receive: Receive, send: Send) -> None:
        scope["litestar_app"] = self
        scope["route_handler"] = handler
        scope["path_template"] = scope["path"]
        scope.setdefault("state", {})
        request = GatewayRequest(scope, receive, send)
        answer: Answering | None = None
        try:
            await admit(request)
            answer = await handler.fn(request=request, gateway=self.state.gateway)
            await answer(scope, receive, send)
        except Exception as error:  # the request's boundary, as Litestar's own
            if answer is not None and answer.begun:
                raise  # nothing can be told any more: the server closes the connection
            response = self.exception_handlers[Exception](request, error)
            await response.to_asgi_response(app=None, request=request)(scope, receive, send)


def _in_a_sentence(send: Any) -> Any:
    """Have a life that cannot begin ended in the words of our own error, where Litestar tells a traceback."""

    async def told(message: Any) -> None:
        if message["type"] == "lifespan.startup.failed" and (error := _ours(sys.exception())) is not None:
            message = {**message, "message": str(error)}
        await send(message)

    return told


def _ours(error: BaseException | None) -> StarloopError | None:
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_ours, error.exceptions)), None)
    return error if isinstance(error, StarloopError) else None
