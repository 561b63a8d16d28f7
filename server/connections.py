"""HTTP/1.1 to one engine: kept-alive connections that can be cut at any moment.

Cutting is why this stands here: an engine works until its connection closes, and the Rust clients measured either keep
a request running that nobody waits for or hold back the first 64 KiB of a stream. Parsing is llhttp's (`httptools`).
It knows nothing of models or JSON.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from feedback.errors import SettingsError, UnavailableError
from feedback.settings_values import engine_address

CONNECT_SECONDS = 5.0
# Below the 5 s after which uvicorn, and so vLLM, closes an idle connection.
_IDLE_SECONDS = 4.0
_BUFFER = 256 * 1024


class UnreachableError(UnavailableError):
    """No connection came about: nothing was sent."""


class BrokenAnswerError(UnavailableError):
    """The connection ended, or spoke no HTTP, after the request was sent."""


class SlowEngineError(UnavailableError):
    """Nothing came for the longest time allowed."""


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time. `patience` is the longest wait for the next byte, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, where: str) -> None:
        self.status = 0
        self.content_type = ""
        self.complete = True
        """The answer's last byte has come, or no exchange is under way."""
        self.reused = False
        self.idle_since = 0.0
        self._where = where
        self._loop = loop
        self._parser: httptools.HttpResponseParser | None = None
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._keep = True
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._satisfied: Callable[[], bool] = lambda: False
        self._heard = 0.0
        self._transport: asyncio.Transport

    # -- used by one exchange

    async def send(self, request: bytes, patience: float) -> None:
        """Send a whole request and wait for the answer's head."""
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.content_type, self.complete = 0, "", False
        self._transport.write(request)
        await self._wait(lambda: self.status != 0, patience)

    async def read(self, patience: float) -> bytes:
        """The next bytes of the body as they came; empty at its end."""
        await self._wait(lambda: bool(self._pieces) or self.complete, patience)
        if not self._pieces:
            return b""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def read_all(self, patience: float) -> bytes:
        """The whole body."""
        parts = []
        while data := await self.read(patience):
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def untouched(self) -> bool:
        """Not one byte of an answer has come: on a kept connection, the engine had closed it before it read."""
        return self.status == 0

    @property
    def usable(self) -> bool:
        """It can carry another exchange."""
        return self._keep and self.complete and self._error is None and not self._pieces

    def cut(self, error: Exception) -> None:
        """Close at once; who waits on this connection gets `error`."""
        self._fail(error)
        self._transport.abort()

    # -- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its type

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self.complete or self._parser is None:
            self._keep = False  # bytes that nobody asked for
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.cut(BrokenAnswerError(f"the engine at {self._where} did not speak HTTP ({error})"))
            return
        if self._buffered > _BUFFER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep = False
        if not self.complete:
            self._fail(BrokenAnswerError(f"the engine at {self._where} closed the connection mid-answer"))

    # -- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.content_type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self.complete = True
        self._keep = self._parser.should_keep_alive()

    # -- waiting

    async def _wait(self, satisfied: Callable[[], bool], patience: float) -> None:
        if self._error is not None:
            raise self._error
        if satisfied():
            return
        self._satisfied = satisfied
        self._waiter = self._loop.create_future()
        self._heard = self._loop.time()
        timer = self._loop.call_later(patience, self._too_slow, patience)
        try:
            await self._waiter
        finally:
            self._waiter = None
            timer.cancel()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done() and self._satisfied():
            waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(self._error)

    def _too_slow(self, patience: float) -> None:
        if self._waiter is not None and not self._waiter.done():
            self.cut(SlowEngineError(f"the engine at {self._where} sent nothing for {patience:g} s"))


class Connections:
    """The pool of one engine address, such as `http://127.0.0.1:8100`."""

    def __init__(self, url: str) -> None:
        try:
            parts = engine_address(url)
        except ValueError as error:
            raise SettingsError([f"engine.urls: {error}"]) from None
        authority = parts.netloc.rpartition("@")[2]
        self.url = f"{parts.scheme}://{authority}{parts.path.rstrip('/')}"
        """Its address as it may be shown: without what stands before an @."""
        self._host = str(parts.hostname)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._authority = authority.encode("ascii")
        self._idle: deque[Connection] = deque()

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        request_id: str = "",
        traceparent: str = "",
        waits: bool = False,
    ) -> bytes:
        """A request in HTTP's own bytes. All arguments are ours: nothing that a client wrote goes into the head.

        One that `waits` asks vLLM to be scheduled after all that do not: of priorities, the lower is served earlier.
        """
        identifier = f"x-request-id: {request_id}\r\n" if request_id else ""
        if traceparent:
            identifier += f"traceparent: {traceparent}\r\n"
        if waits:
            identifier += "x-vllm-priority: 1\r\n"
        return (
            b"%b %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
            % (
                method.encode("ascii"),
                (self._prefix + path).encode("ascii"),
                self._authority,
                identifier.encode("ascii"),
                len(body),
                body,
            )
        )

    async def take(self, fresh: bool = False) -> Connection:
        """An idle connection, or a new one. Raises `UnreachableError`."""
        loop = asyncio.get_running_loop()
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable and loop.time() - connection.idle_since < _IDLE_SECONDS:
                connection.reused = True
                return connection
            connection.cut(UnreachableError("idle for too long"))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self.url), self._host, self._port, ssl=self._ssl
                )
        except (OSError, TimeoutError) as error:
            raise UnreachableError(
                f"the engine at {self.url} cannot be reached ({error or 'no answer'})"
            ) from None
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next exchange, or cut it when this one did not end well."""
        if not connection.usable:
            connection.cut(BrokenAnswerError("nobody waits for this answer any more"))
            return
        now = connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        while now - self._idle[0].idle_since > _IDLE_SECONDS:
            self._idle.popleft().cut(UnreachableError("idle for too long"))

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().cut(UnreachableError("the gateway stops"))
