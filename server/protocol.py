"""HTTP/1.1 on one connection: uvicorn's, with what it leaves open closed.

uvicorn bounds neither the size of a request's head nor the time that a client may take for it, takes what stands behind a body
for more of the head, and tells a malformed
request in plain text. It answers HTTP/1.0 in chunks, which such a client cannot read, and a request for an absolute address
under the name in its `Host` header. It loses the body of a request that offers HTTP/2, as Java's client does with each, and forgets the
answer under way when another request was sent behind it. The exact size of a head that came whole is looked at in
`server.head`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from server.errors import error_object
from server.head import HEAD_BYTES

_Application = Callable[[Any, Any, Any], Awaitable[None]]

HEAD_SECONDS = 30.0
"""How long a request's head may take; also the time in which a new connection has to begin one."""
BODY_SECONDS = 60.0
"""How long a body may pause before it is complete."""
_STILL_SECONDS = 2.0
"""How long what a refused client still sends is read, so that it sees the refusal instead of a reset."""


def most_clients() -> int:
    """Connections of clients at a time: the other half of what may be open is for engines, journal and database."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft // 2


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True
        self._head_bytes = 0
        self._frame_bytes = 0
        self._refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._body_heard = 0.0
        self._running: RequestResponseCycle | None = None
        self._body_is_left = False
        self._skips_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > most_clients():
            self._refuse(503, "the gateway has all the connections that it can; come again in a moment")
            self.transport.close()
            return
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_body_timer()
        self._end_running()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        begun = self._in_head
        self._unset_keepalive_if_required()
        self._frame_bytes += len(data)
        self._feed(data)
        if self._refused:
            return
        if not self._in_head:
            if self._frame_bytes > HEAD_BYTES:
                self._refuse(431, f"beside the pieces of the body stand more than {HEAD_BYTES} bytes")
            else:
                self._await_body()
            return
        if begun:  # what began in this piece may have come behind a body
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, f"the request's head has more than {HEAD_BYTES} bytes")
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        if not self._skips_head:
            self._in_head = True
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._skips_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head. Those behind a body are none: what they say comes too late to be checked (RFC 9110, 6.5.1)."""
        if self._in_head and not self._skips_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._frame_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        if self._skips_head:
            return
        self._take_host()
        super().on_headers_complete()
        self._in_head, self._head_bytes, self._frame_bytes = False, 0, 0
        self._body_is_left = self.parser.should_upgrade() and bool(self._framing())
        self._stop_timer()

    def _take_host(self) -> None:
        """Of `GET http://name/path` the name counts, whatever the `Host` header says (RFC 9112, 3.2.2)."""
        if self.url.startswith((b"/", b"*")):
            return
        address = httptools.parse_url(self.url)
        if address.host is None:
            return
        host = address.host if address.port is None else b"%b:%d" % (address.host, address.port)
        self.headers[:] = [(b"host", host), *(field for field in self.headers if field[0] != b"host")]

    def on_message_complete(self) -> None:
        if not self._body_is_left:
            super().on_message_complete()
            self._stop_body_timer()

    def _await_body(self) -> None:
        """See to it that what is missing of a body comes."""
        if self.cycle is None or not self.cycle.more_body or self.cycle.response_complete:
            return
        self._body_heard = self.loop.time()
        if self._body_timer is None:
            self._body_timer = self.loop.call_later(BODY_SECONDS, self._miss_body)

    def _miss_body(self) -> None:
        left = self._body_heard + BODY_SECONDS - self.loop.time()
        if self.flow.read_paused:
            left = BODY_SECONDS  # it is we who do not read
        if left > 0:
            self._body_timer = self.loop.call_later(left, self._miss_body)
            return
        self._body_timer = None
        self._refuse(408, f"nothing more of the body has come for {BODY_SECONDS:g} s")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.transport = _HeadWithBody(self.loop, self.transport)  # type: ignore[assignment]
        if cycle.scope["http_version"] == "1.0":
            app = _ended_by_closing(app, cycle)
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Tell what is wrong with a request that is none, or whose body breaks off into something else."""
        if self._in_head:
            self._refuse(400, "this is not a request in HTTP/1.1")
        else:
            self._refuse(400, "the body is malformed: it ended before it was complete")

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        self._refused, running = True, self._running
        self._end_running()
        if running is None or running.response_complete or not running.response_started:
            content = error_object(message, "invalid_request_error")
            fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + fields % len(content) + content)
        self._stop_timer()
        self._stop_body_timer()  # or what stands refused would be refused once more
        self._head_timer = self.loop.call_later(_STILL_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _end_running(self) -> None:
        """Nobody hears the answer under way: it ends as when the client goes away."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._decline()
            except httptools.HttpParserError:
                self.send_400_response("")
                return
            else:
                return

    def _decline(self) -> None:
        """Stay with HTTP/1.1 where a client offers another: the parser takes the offer for the end of all requests.

        So a new one goes on behind the head, and is told of it only how long the body is.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if self._body_is_left:
            lines = b"".join(b"%s: %s\r\n" % field for field in self._framing())
            self._body_is_left, self._skips_head = False, True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + lines + b"\r\n")
            self._skips_head = False

    def _framing(self) -> list[tuple[bytes, bytes]]:
        """The headers that say how long the body is."""
        return [
            (name, value)
            for name, value in self.headers
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        ]


class _HeadWithBody:
    """What one answer is written to: its head goes out together with what follows in the same turn of the event loop.

    uvicorn writes them one by one, and each write is a system call, a packet, and something for the client to wake for.
    """

    __slots__ = ("_begun", "_held", "_loop", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._begun = False
        self._held = b""

    def write(self, data: bytes) -> None:
        if not self._begun:
            self._begun, self._held = True, data
            self._loop.call_soon(self._release)
        elif self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, data))
        else:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._release()
        self._transport.close()

    def _release(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)


def _ended_by_closing(app: _Application, cycle: RequestResponseCycle) -> _Application:
    """An answer of unknown length to a client that does not know chunks: the end of the connection is its end."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        unframed = False

        async def pass_on(message: Any) -> None:
            nonlocal unframed
            if message["type"] == "http.response.start":
                unframed = all(name.lower() != b"content-length" for name, _ in message["headers"])
                if unframed:
                    cycle.chunked_encoding = False
            elif unframed:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, pass_on)

    return run
