"""Streaming load in lock step: the engine sends a stream's next chunk when the last one has arrived at the client.

So every chunk travels alone, as a real engine's do, and none can be saved by reading two at once; how fast the contender
passes them on is all that counts. Engine and client share one event loop, which is what makes that cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter

from tests.bench.percentiles import percentile
from tests.bench.upstream import CHUNKS, Upstream

_STALL_SECONDS = 0.25
_EVENT_END = b"\n\n"
_BODY_END = b"0\r\n\r\n"
_numbers = count(1)


@dataclass
class StreamResult:
    """What one run of some seconds brought."""

    seconds: float
    chunks: int = 0
    streams: int = 0
    failures: int = 0
    stalls: int = 0
    """Chunks that were released because nothing came: the contender held one back or swallowed it."""
    first: list[float] = field(default_factory=list)
    """Milliseconds from request to first chunk."""
    passage: list[float] = field(default_factory=list)
    """Milliseconds from the engine's sending of a chunk to its arrival."""

    def summary(self) -> dict[str, float]:
        return {
            "chunks_per_second": self.chunks / self.seconds,
            "streams": self.streams,
            "failures": self.failures,
            "stalls": self.stalls,
            "first_p50_ms": percentile(self.first, 50),
            "first_p99_ms": percentile(self.first, 99),
            "chunk_p50_ms": percentile(self.passage, 50),
            "chunk_p99_ms": percentile(self.passage, 99),
        }


class StreamClient(asyncio.Protocol):
    """One client that asks for one stream after the other."""

    def __init__(
        self,
        upstream: Upstream,
        request: Callable[[int], bytes],
        result: StreamResult,
        lost: Callable[[], None],
    ) -> None:
        self._upstream = upstream
        self._request = request
        self._result = result
        self._lost = lost
        self._number = 0
        self._events = 0
        self._asked = self._released = self.heard = 0.0
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        if self.transport.is_closing():
            return
        self._number, self._events, self._rest = next(_numbers), 0, b""
        self._asked = self.heard = perf_counter()
        self.transport.write(self._request(self._number))

    def data_received(self, data: bytes) -> None:
        now = self.heard = perf_counter()
        data = self._rest + data
        arrived = data.count(_EVENT_END)
        self._rest = data[data.rfind(_EVENT_END) + 2 :] if arrived else data
        if not self._events and not data.startswith(b"HTTP/1.1 200"):
            self._result.failures += 1
            self.transport.abort()
            return
        if not self._events and arrived:
            self._result.first.append((now - self._asked) * 1000)
        elif arrived and self._events < CHUNKS:
            self._result.passage.append((now - self._released) * 1000)
        self._result.chunks += max(min(arrived, CHUNKS - self._events), 0)
        self._events += arrived
        self._released = perf_counter()
        if self._rest.endswith(_BODY_END):
            self._result.streams += 1
            asyncio.get_running_loop().call_soon(self._ask)
            return
        for _ in range(arrived):
            self._upstream.release(self._number)

    def nudge(self) -> None:
        """Release a chunk although the last one has not arrived."""
        if self._number in self._upstream.streams:
            self._result.stalls += 1
            self.heard = perf_counter()
            self._upstream.release(self._number)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.streams.pop(self._number, None)
        self._lost()


async def load(
    upstream: Upstream,
    host: str,
    port: int,
    request: Callable[[int], bytes],
    connections: int,
    seconds: float,
) -> StreamResult:
    """Keep `connections` streams under way for some seconds. Connections that close are replaced."""
    loop = asyncio.get_running_loop()
    result = StreamResult(seconds)
    clients: set[StreamClient] = set()
    deadline = perf_counter() + seconds

    async def keep_one() -> None:
        while perf_counter() < deadline:
            closed = asyncio.Event()
            client = StreamClient(upstream, request, result, closed.set)
            await loop.create_connection(lambda: client, host, port)  # noqa: B023
            clients.add(client)
            await closed.wait()
            clients.discard(client)

    keepers = [loop.create_task(keep_one()) for _ in range(connections)]
    while (left := deadline - perf_counter()) > 0:
        await asyncio.sleep(min(left, _STALL_SECONDS / 4))
        for client in clients:
            if perf_counter() - client.heard > _STALL_SECONDS:
                client.nudge()
    result.seconds = perf_counter() - (deadline - seconds)
    for keeper in keepers:
        keeper.cancel()
    for client in list(clients):
        client.transport.abort()
    await asyncio.gather(*keepers, return_exceptions=True)
    upstream.streams.clear()
    return result
