"""One connection: what a client may send before it has asked for anything, and in which time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn import Config, Server

import server.protocol
from server.protocol import Protocol

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Any) -> None:
    """Answers with the body it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(application: Any = echo) -> AsyncIterator[int]:
    server = Server(Config(application, port=0, http=Protocol, ws="none", lifespan="off", log_config=None))
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def connected() -> AsyncIterator[Streams]:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def seconds_until_closed(streams: Streams) -> float:
    started = asyncio.get_running_loop().time()
    assert await asyncio.wait_for(streams[0].read(), 20) == b""
    return asyncio.get_running_loop().time() - started


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was refused is not waited for so long."""
    monkeypatch.setattr(server.protocol, "_STILL_SECONDS", 0.5)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.protocol, "HEAD_SECONDS", 0.3)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "sent", [b"", b"GE", b"GET / HTTP/1.1\r\nhost: x\r\n"], ids=["nothing", "a word", "half a head"]
)
def test_a_client_that_does_not_get_on_with_its_head_is_let_go(sent: bytes) -> None:
    async def slow() -> None:
        async with connected() as streams:
            streams[1].write(sent)
            assert 0.2 < await seconds_until_closed(streams) < 2

    asyncio.run(slow())


@pytest.mark.usefixtures("hasty")
def test_a_head_that_drips_has_no_more_time_than_any_other() -> None:
    async def drip() -> float:
        async with connected() as (reader, writer):
            started = asyncio.get_running_loop().time()
            writer.write(b"GET / HTTP/1.1\r\n")
            while not reader.at_eof():
                writer.write(b"x: y\r\n")
                await asyncio.sleep(0.05)
                assert asyncio.get_running_loop().time() - started < 2
            return asyncio.get_running_loop().time() - started

    assert asyncio.run(drip()) > 0.2


@pytest.mark.usefixtures("hasty")
def test_a_body_has_its_own_time_and_the_next_request_its_own_again() -> None:
    async def talk() -> None:
        async with connected() as (reader, writer):
            for _ in range(2):
                writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
                await asyncio.sleep(0.4)
                writer.write(b"cd")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await reader.readexactly(4) == b"abcd"
                await asyncio.sleep(0.4)  # idle, not slow

    asyncio.run(talk())


def test_a_body_that_stops_coming_is_told_so_and_one_that_drips_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server.protocol, "BODY_SECONDS", 1.0)

    async def talk(pieces: int) -> bytes:
        async with connected() as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n")
            for _ in range(pieces):
                writer.write(b"a")
                await asyncio.sleep(0.1)
            return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)

    assert asyncio.run(talk(2)).startswith(b"HTTP/1.1 408 ")
    assert asyncio.run(talk(12)).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_breaks_off_into_nonsense_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.protocol, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(server.protocol, "_STILL_SECONDS", 1.5)

    async def talk() -> bytes:
        async with connected() as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab")
            await asyncio.sleep(0.1)
            writer.write(b"cde\r\nno length\r\n")
            return await asyncio.wait_for(reader.read(), 20)

    answer = asyncio.run(talk())
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("piece", [1_000, 50_000])
def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory(piece: int) -> None:
    async def flood() -> bytes:
        async with connected() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nx: ")
            for _ in range(400_000 // piece):
                writer.write(b"a" * piece)
                await asyncio.sleep(0)
            return await asyncio.wait_for(reader.read(), 20)

    assert asyncio.run(flood()).startswith(b"HTTP/1.1 431 ")


async def tell_head(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Any
) -> None:
    """Answers, after the body, with the names of the headers that came."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b" ".join(name for name, _ in scope["headers"])})


def test_clients_leave_room_for_what_the_gateway_itself_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.protocol, "most_clients", lambda: 1)

    async def talk() -> tuple[bytes, bytes]:
        async with serving() as port:
            idle, first = await asyncio.open_connection("127.0.0.1", port)
            first.write(b"GE")
            await asyncio.sleep(0.1)
            reader, second = await asyncio.open_connection("127.0.0.1", port)
            refused = await asyncio.wait_for(reader.read(), 20)
            first.write(b"T / HTTP/1.1\r\nhost: x\r\n\r\n")
            served = await asyncio.wait_for(idle.readuntil(b"\r\n\r\n"), 20)
            first.close()
            second.close()
            await asyncio.sleep(0.1)
            reader, third = await asyncio.open_connection("127.0.0.1", port)
            third.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            again = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            third.close()
            assert served.startswith(b"HTTP/1.1 200 ")
            return refused, again

    refused, again = asyncio.run(talk())
    assert refused.startswith(b"HTTP/1.1 503 ") and b"come again" in refused
    assert again.startswith(b"HTTP/1.1 200 ")


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"


def test_what_stands_behind_a_body_is_no_header() -> None:
    async def send() -> bytes:
        async with serving(tell_head) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CHUNKED + b"0\r\nauthorization: Bearer late\r\n\r\n")
            got = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            return got

    got = asyncio.run(send())
    assert got.startswith(b"HTTP/1.1 200 ") and b"host transfer-encoding" in got
    assert b"authorization" not in got


@pytest.mark.parametrize(
    "beside",
    [b"0\r\nx: ", b"0\r\n", b"1;x="],
    ids=["an endless line", "endless lines", "an endless extension"],
)
def test_what_stands_beside_a_body_is_bounded_as_a_head_is(beside: bytes) -> None:
    async def flood() -> bytes:
        async with connected() as (reader, writer):
            writer.write(CHUNKED + beside)
            piece = b"x: y\r\n" * 2000 if beside == b"0\r\n" else b"a" * 10_000
            for _ in range(40):
                writer.write(piece)
                await asyncio.sleep(0)
            return await asyncio.wait_for(reader.read(), 20)

    assert asyncio.run(flood()).startswith(b"HTTP/1.1 431 ")


def test_a_body_in_many_small_pieces_is_taken() -> None:
    async def send() -> bytes:
        async with connected() as (reader, writer):
            for number in range(100):
                writer.write((b"" if number else CHUNKED) + b"1\r\nb\r\n" * 1000)
            writer.write(b"0\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            return await asyncio.wait_for(reader.readexactly(100_001), 20)

    assert asyncio.run(send()) == b"a" + b"b" * 100_000


def test_requests_in_one_piece_are_answered_one_after_the_other_and_nonsense_behind_them_is_told() -> None:
    async def send() -> bytes:
        async with connected() as (reader, writer):
            one = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
            writer.write(one + b"1" + one + b"2")
            got = b""
            while got.count(b"HTTP/1.1 200") < 2:
                got += await asyncio.wait_for(reader.read(1000), 20)
            writer.write(b"nonsense\r\n\r\n")
            return got + await asyncio.wait_for(reader.read(), 20)

    got = asyncio.run(send())
    assert got.index(b"\r\n\r\n1") < got.index(b"\r\n\r\n2") < got.index(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "framing,body",
    [
        (b"content-length: 4", b"abcd"),
        (b"transfer-encoding: chunked", b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"),
        (b"content-length: 0", b""),
        (b"x: y", b""),
    ],
    ids=["of a length", "in chunks", "empty", "without"],
)
@pytest.mark.parametrize("cut", [False, True], ids=["in one piece", "body apart"])
def test_who_offers_http_2_is_served_in_http_1_1_body_and_next_request_too(
    framing: bytes, body: bytes, cut: bool
) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAQAAP__\r\n"
    head = b"POST / HTTP/1.1\r\nhost: x\r\n" + offer + framing + b"\r\n\r\n"
    after = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nnew"

    async def send() -> list[bytes]:
        async with connected() as (reader, writer):
            writer.write(head if cut else head + body + after)
            if cut:
                await asyncio.sleep(0.1)
                writer.write(body + after)
            got = []
            for _ in range(2):
                told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                assert told.startswith(b"HTTP/1.1 200")
                got.append(await reader.readexactly(int(told.partition(b"content-length: ")[2].split()[0])))
            return got

    assert asyncio.run(send()) == [b"abcd" if body else b"", b"new"]


class Endless:
    """Streams until its client has gone."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = asyncio.Event()

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await receive()  # the request's own, without a body
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.02)
        self.ended.set()


def test_an_answer_under_way_is_cut_off_also_when_another_request_waits_behind_it() -> None:
    async def leave() -> int:
        streaming = Endless()
        async with serving(streaming) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
            while not streaming.begun:
                await asyncio.sleep(0.01)
            writer.transport.abort()
            await asyncio.wait_for(streaming.ended.wait(), 20)
        return streaming.begun

    assert asyncio.run(leave()) == 1


def test_nonsense_behind_an_answer_under_way_ends_it_and_is_not_written_into_it() -> None:
    async def send() -> tuple[bytes, int]:
        streaming = Endless()
        async with serving(streaming) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"begun\r\n")
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n")
            rest = await asyncio.wait_for(reader.read(), 20)
            await asyncio.wait_for(streaming.ended.wait(), 20)
            writer.close()
        return rest, streaming.begun

    rest, begun = asyncio.run(send())
    assert b"HTTP/1.1" not in rest
    assert begun == 1


@pytest.mark.parametrize("body", [b"", b"abcd"], ids=["without a body", "with one"])
def test_a_client_of_http_1_0_gets_a_stream_without_chunks_and_its_end_by_the_connections(
    body: bytes,
) -> None:
    async def stream(_scope: Any, receive: Any, send: Any) -> None:
        asked = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"begun ", asked):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send() -> bytes:
        async with serving(stream) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            got = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            return got

    head, _, got = asyncio.run(send()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"connection: close" in head
    assert got == b"begun " + body


def test_a_client_of_http_1_0_gets_an_answer_of_known_length_as_it_is() -> None:
    async def send() -> bytes:
        async with connected() as (reader, writer):
            writer.write(b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\nab")
            return await asyncio.wait_for(reader.read(), 20)

    head, _, got = asyncio.run(send()).partition(b"\r\n\r\n")
    assert b"content-length: 2" in head and got == b"ab"


@pytest.mark.parametrize(
    "target,host",
    [
        (b"http://evil.example/x", b"evil.example"),
        (b"http://evil.example:8000/x", b"evil.example:8000"),
        (b"/x", b"localhost"),
    ],
)
def test_of_an_absolute_address_the_name_counts_and_not_the_host_header(target: bytes, host: bytes) -> None:
    heard: list[list[bytes]] = []

    async def hear(scope: Any, receive: Any, send: Any) -> None:
        heard.append([value for name, value in scope["headers"] if name == b"host"])
        await echo(scope, receive, send)

    async def send() -> None:
        async with serving(hear) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            writer.close()

    asyncio.run(send())
    assert heard == [[host]]


def test_a_head_goes_out_with_a_body_that_is_there_and_alone_before_one_that_is_not() -> None:
    """Looked at where the bytes leave: how a client finds them depends on how soon it reads."""
    leaving: list[bytes] = []
    finished = asyncio.Event()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        if scope["path"] == "/late":
            await finished.wait()
        await send({"type": "http.response.body", "body": b"here"})

    class Watched(Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.transport = _Watched(transport, leaving)  # type: ignore[assignment]

    async def run() -> None:
        server = Server(Config(late, port=0, http=Watched, ws="none", lifespan="off", log_config=None))
        running = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"here")
        assert len(leaving) == 1 and leaving[0].startswith(b"HTTP/1.1 200") and leaving[0].endswith(b"here")
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 200")
        finished.set()
        await reader.readuntil(b"here")
        assert leaving[2:] == [b"here"]
        writer.close()
        server.should_exit = True
        await running

    asyncio.run(run())


class _Watched:
    """A transport that notes what leaves together."""

    def __init__(self, transport: asyncio.Transport, leaving: list[bytes]) -> None:
        self._transport, self._leaving = transport, leaving

    def write(self, data: bytes) -> None:
        self._leaving.append(data)
        self._transport.write(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self._leaving.append(b"".join(pieces))
        self._transport.writelines(pieces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
