"""Notices that a client has gone, or that its answer takes too long, so that nobody works on for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from litestar.types import Receive

from feedback.errors import StarloopError
from server.connections import Connection, SlowEngineError

# Answers that come sooner need no watching, which costs a task.
_GRACE_SECONDS = 0.01


class ClientGoneError(StarloopError):
    """The client closed the connection before its answer was complete."""


class ClientWatch:
    """Cuts an engine's connection as soon as the client's own closes, or after `seconds`.

    The request's body must have been read.
    """

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._connection: Connection | None = None
        self._listener: asyncio.Task[None] | None = None
        self._gone = False
        self._timer = asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._listen)

    def over(self, connection: Connection) -> None:
        """The connection to cut from now on. Raises `ClientGoneError` when the client has gone already."""
        if self._gone:
            raise ClientGoneError("the client went away")
        self._connection = connection

    def stop(self) -> None:
        """The answer is there: what the client does now changes nothing any more."""
        self._connection = None
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = loop.create_task(self._wait())
        self._timer = loop.call_later(self._seconds - _GRACE_SECONDS, self._too_long)

    def _too_long(self) -> None:
        if self._connection is not None:
            self._connection.cut(
                SlowEngineError(
                    f"the answer was not complete after {self._seconds:g} s, the longest that [server] answer_seconds "
                    "allows; ask for fewer tokens (max_tokens)"
                )
            )

    async def _wait(self) -> None:
        with suppress(asyncio.CancelledError):
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._gone = True
            if self._connection is not None:
                self._connection.cut(ClientGoneError("the client went away"))
