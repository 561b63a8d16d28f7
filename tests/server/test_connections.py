"""The HTTP client of the hot path, against real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from feedback.errors import SettingsError
from server.connections import (
    BrokenAnswerError,
    Connection,
    Connections,
    SlowEngineError,
    UnreachableError,
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


@asynccontextmanager
async def pool_to(url: str) -> AsyncIterator[Connections]:
    pool = Connections(url)
    try:
        yield pool
    finally:
        pool.close()
        await asyncio.sleep(0.01)  # until the event loop has closed what was cut


@asynccontextmanager
async def taken(pool: Connections) -> AsyncIterator[Connection]:
    connection = await pool.take()
    try:
        yield connection
    finally:
        pool.give_back(connection)


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def get(pool: Connections, patience: float = 5.0) -> tuple[Connection, bytes]:
    async with taken(pool) as connection:
        await connection.send(pool.request("GET", "/"), patience)
        return connection, await connection.read_all(patience)


def answering(*answers: bytes) -> Handler:
    """Answers one request after another, then closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await request(reader)
            writer.write(answer)
            await writer.drain()

    return handle


def test_a_connection_is_kept_and_used_again() -> None:
    async def scenario() -> None:
        async with server(answering(OK, OK)) as url, pool_to(url) as pool:
            first, body = await get(pool)
            assert (first.status, first.content_type, body) == (200, "text/plain", b"hello")
            second, _ = await get(pool)
            assert second is first

    asyncio.run(scenario())


def test_a_connection_that_the_server_ends_is_not_kept() -> None:
    async def scenario() -> None:
        async with (
            server(answering(OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"))) as url,
            pool_to(url) as pool,
        ):
            first, _ = await get(pool)
            second, _ = await get(pool)
            assert second is not first

    asyncio.run(scenario())


def test_chunks_come_one_by_one_as_they_are_sent() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in (b"one", b"two"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.05)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def scenario() -> None:
        async with server(slowly) as url, pool_to(url) as pool, taken(pool) as connection:
            await connection.send(pool.request("POST", "/", b"{}"), 5)
            assert not connection.complete
            assert [await connection.read(5), await connection.read(5)] == [b"one", b"two"]
            assert await connection.read(5) == b""

    asyncio.run(scenario())


def test_nobody_there_means_that_nothing_was_sent() -> None:
    async def scenario() -> None:
        async with server(answering()) as url:
            pass
        with pytest.raises(UnreachableError, match="cannot be reached"):
            await Connections(url).take()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        OK[:-2],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"SSH-2.0-OpenSSH\r\n",
        OK[:20],
    ],
)
def test_an_answer_that_breaks_off_is_an_error(answer: bytes) -> None:
    async def scenario() -> None:
        async with server(answering(answer)) as url, pool_to(url) as pool:
            with pytest.raises(BrokenAnswerError):
                await get(pool)

    asyncio.run(scenario())


def test_silence_is_waited_for_only_so_long() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK[:-2])
        await asyncio.sleep(5)

    async def scenario() -> None:
        async with server(silent) as url, pool_to(url) as pool:
            with pytest.raises(SlowEngineError, match=r"nothing for 0\.1 s"):
                await get(pool, patience=0.1)

    asyncio.run(scenario())


def test_a_cut_reaches_the_server_at_once_and_the_waiting_side_too() -> None:
    async def scenario() -> None:
        left = asyncio.Event()

        async def working(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            await reader.read()  # until the client closes
            left.set()

        async with server(working) as url, pool_to(url) as pool, taken(pool) as connection:
            waiting = asyncio.create_task(connection.send(pool.request("POST", "/", b"{}"), 60))
            await asyncio.sleep(0.05)
            connection.cut(RuntimeError("over"))
            with pytest.raises(RuntimeError, match="over"):
                await waiting
            await asyncio.wait_for(left.wait(), 20)

    asyncio.run(scenario())


def test_a_slow_reader_slows_the_server_down() -> None:
    async def scenario() -> None:
        sent = 0

        async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            piece = b"x" * 65536
            while True:
                writer.write(b"10000\r\n%b\r\n" % piece)
                await writer.drain()
                sent += len(piece)

        async with server(flooding) as url, pool_to(url) as pool, taken(pool) as connection:
            await connection.send(pool.request("GET", "/"), 5)
            stalled = -1
            async with asyncio.timeout(20):
                while sent != stalled:  # what the kernel's buffers hold, and then no more
                    stalled = sent
                    await asyncio.sleep(0.3)
            received = 0
            while received <= stalled:
                received += len(await connection.read(5))
            async with asyncio.timeout(20):
                while sent <= stalled:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_idle_connections_are_not_kept_beyond_the_servers_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.connections._IDLE_SECONDS", 0.05)

    async def scenario() -> None:
        async with server(answering(OK, OK)) as url, pool_to(url) as pool:
            first, _ = await get(pool)
            await asyncio.sleep(0.1)
            second, _ = await get(pool)
            assert second is not first

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["127.0.0.1:8100", "ftp://x", "http://", "http://x:port", "http://exämple"])
def test_an_address_that_is_none_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match=r"engine\.urls"):
        Connections(url)
