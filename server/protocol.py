"""HTTP/1.1 on one connection: uvicorn's, with what it leaves open closed.

uvicorn bounds neither the size of a request's head nor the time that a client may take for it, and tells a malformed
request in plain text. The exact size of a head that came whole is looked at in `server.head`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.errors import error_object
from server.head import HEAD_BYTES

HEAD_SECONDS = 30.0
"""How long a request's head may take; also the time in which a new connection has to begin one."""
_STILL_SECONDS = 2.0
"""How long what a refused client still sends is read, so that it sees the refusal instead of a reset."""


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True
        self._head_bytes = 0
        self._refused = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        begun = self._in_head
        super().data_received(data)
        if not self._in_head:
            return
        if begun:  # what began in this piece may have come behind a body
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, f"the request's head has more than {HEAD_BYTES} bytes")
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Tell what is wrong with a request that is none, or whose body breaks off into something else."""
        if self._in_head:
            self._refuse(400, "this is not a request in HTTP/1.1")
        else:
            self._refuse(400, "the body is malformed: it ended before it was complete")

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        self._refused, cycle = True, self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # nobody hears its answer: it ends as when the client goes away
            cycle.message_event.set()
        if cycle is None or cycle.response_complete or not cycle.response_started:
            content = error_object(message, "invalid_request_error")
            fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + fields % len(content) + content)
        self._stop_timer()
        self._head_timer = self.loop.call_later(_STILL_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: who offers HTTP/2 beside HTTP/1.1 is served in HTTP/1.1, and there is nothing to warn of."""
