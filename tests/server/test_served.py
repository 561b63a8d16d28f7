"""The real thing: the official `openai` client against uvicorn, before a stand-in engine."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from feedback.storage.database import Database
from feedback.storage.verify import verify
from tests.server.served import Served, served
from tests.server.upstream import FakeEngine, fake_engine
from tests.server.versions import add_version


@pytest.fixture(scope="module")
def stand_in() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def running(stand_in: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), [stand_in.url], workers=2) as gateway:
        yield gateway


@pytest.fixture
def engine(stand_in: FakeEngine) -> FakeEngine:
    """The stand-in, as it is at first."""
    stand_in.delay = stand_in.pause = 0.0
    stand_in.die_after, stand_in.status = None, 200
    stand_in.gone, stand_in.held = 0, False
    return stand_in


@pytest.fixture
def client(running: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as made:
        yield made


def until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def database(gateway: Served) -> Database:
    return Database(f"sqlite:///{gateway.directory / 'starloop.sqlite'}")


# -- heads


def told(gateway: Served, head: bytes) -> bytes:
    """The first line that comes back for a request's head, sent as it stands."""
    host, _, port = gateway.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with suppress(ConnectionError):  # the server need not hear it all
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n" + head + b"\r\n")
        return connection.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"x: " + b"a" * 120_000 + b"\r\n", b"200"),
        (b"x: " + b"a" * 200_000 + b"\r\n", b"431"),
        (b"x: " + b"a" * 1_000_000 + b"\r\n", b"431"),
        (b"".join(b"x-%d: 1\r\n" % number for number in range(99)), b"200"),
        (b"".join(b"x-%d: 1\r\n" % number for number in range(100)), b"431"),
        (b"".join(b"x-%d: 1\r\n" % number for number in range(10_000)), b"431"),
        (b"x y: 1\r\n", b"400"),
        (b"x: \0\r\n", b"400"),
    ],
    ids=["120 kB", "200 kB", "1 MB", "100 fields", "101 fields", "10,001 fields", "no name", "null byte"],
)
def test_a_heads_size_is_bounded_and_serving_goes_on(running: Served, head: bytes, status: bytes) -> None:
    assert told(running, head).split(b" ")[1] == status
    assert told(running, b"").split(b" ")[1] == b"200"


# -- the openai client


def test_a_balancer_that_asks_for_the_status_alone_gets_no_byte_more(running: Served) -> None:
    with httpx.Client(base_url=running.address) as http:
        for path in ("/health/live", "/health/ready"):
            assert (http.head(path).status_code, http.head(path).content) == (200, b"")
            assert http.get(path).json()  # on the same connection: nothing was left in it


def test_the_openai_client_gets_an_answer(client: openai.OpenAI, engine: FakeEngine) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="assistant",
        messages=[{"role": "user", "content": "Hello?"}],
        user="ann",
        metadata={"team": "x"},
        store=True,
    )
    completion = raw.parse()
    assert completion.choices[0].message.content == "bases/starter answers"
    assert completion.id == f"chatcmpl-{raw.headers['x-starloop-inference-id']}"
    assert raw.headers["x-starloop-version"] == "assistant@base"
    assert completion.usage is not None and completion.usage.completion_tokens == 2


def test_the_openai_client_gets_a_stream(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.pause = 0.2
    started = time.monotonic()
    times: list[float] = []
    text = ""
    stream = client.chat.completions.create(
        model="assistant",
        messages=[{"role": "user", "content": "Hello?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    usage = None
    for chunk in stream:
        times.append(time.monotonic() - started)
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == "bases/starter answers"
    assert usage is not None and usage.prompt_tokens == 7
    assert times[-1] - times[0] > 0.15  # they came as they were made


def test_the_openai_client_continues_a_text_and_lists_models(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    assert (
        client.completions.create(model="assistant", prompt="Once").choices[0].text == "bases/starter answers"
    )
    assert [model.id for model in client.models.list()] == ["assistant"]
    assert client.models.retrieve("assistant").owned_by == "starloop"


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI, engine: FakeEngine) -> None:
    hello = [{"role": "user", "content": "Hello?"}]
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=hello)  # type: ignore[arg-type]
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="assistant", messages="hello")  # type: ignore[call-overload]
    assert bad.value.param == "messages"
    engine.status = 500
    with pytest.raises(openai.InternalServerError, match="told to fail"):
        client.chat.completions.create(model="assistant", messages=hello)  # type: ignore[arg-type]
    engine.status = 200
    engine.die_after = 2
    with pytest.raises(openai.APIError, match="closed the connection"):
        for _ in client.chat.completions.create(model="assistant", messages=hello, stream=True):  # type: ignore[call-overload]
            pass


def test_an_inference_of_one_worker_is_rated_at_another(client: openai.OpenAI, running: Served) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="assistant", messages=[{"role": "user", "content": "Hello?"}]
    )
    inference = raw.headers["x-starloop-inference-id"]
    for rating in range(1, 6):
        body = {"inference_id": inference, "rating": rating}
        told = httpx.post(f"{running.address}/v1/feedback", json=body)
        assert told.status_code in (201, 202)

    def rated() -> bool:
        found = httpx.get(f"{running.address}/v1/inferences/{inference}")
        return found.status_code == 200 and found.json()["rating"] == 5

    until(rated, seconds=60)  # the processes that bring it there may only be starting


# -- what only sockets show


def test_the_engine_stops_working_when_a_client_hangs_up(running: Served, engine: FakeEngine) -> None:
    engine.held, asked = True, len(engine.completions())
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}]}

    async def leave() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            asking = asyncio.create_task(client.post(f"{running.address}/v1/chat/completions", json=body))
            async with asyncio.timeout(20):
                while len(engine.completions()) == asked:
                    await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait([asking])

    asyncio.run(leave())
    until(lambda: engine.gone == 1)


def test_the_engine_stops_working_when_a_client_leaves_a_stream(running: Served, engine: FakeEngine) -> None:
    engine.pause = 60.0
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}], "stream": True}
    with httpx.stream("POST", f"{running.address}/v1/chat/completions", json=body) as response:
        next(response.iter_raw())
        inference = response.headers["x-starloop-inference-id"]
    until(lambda: engine.gone == 1)
    until(lambda: httpx.get(f"{running.address}/v1/inferences/{inference}").status_code == 200)
    assert httpx.get(f"{running.address}/v1/inferences/{inference}").json()["status"] == 499


def test_a_body_in_broken_chunks_is_the_clients_mistake(running: Served) -> None:
    host, _, port = running.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + b'5\r\n{"mod\r\nno length\r\n')
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"ended before it was complete" in answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback", "/v1/cases/draw"])
def test_a_body_that_comes_in_pieces_is_put_together(running: Served, path: str) -> None:
    """Head and body, and halves of the body, each in a packet of its own, as many clients send them."""
    host, _, port = running.address.removeprefix("http://").partition(":")
    body = b'{"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}], "count": 1}'
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (head.encode(), body[:20], body[20:]):
            connection.sendall(piece)
            time.sleep(0.1)
        status = int(connection.recv(4096).split(b" ")[1])
    assert status == (200 if path.endswith("completions") else 400)


def test_promotions_under_load_fail_no_request_over_sockets(running: Served, engine: FakeEngine) -> None:
    record = database(running)
    versions = [add_version(record, running.directory) for _ in range(2)]
    record.close()

    def ask(number: int) -> str:
        with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(
                model="assistant", messages=[{"role": "user", "content": f"{number}"}]
            )
            version = raw.headers["x-starloop-version"]
            written_by = raw.parse().model
            assert version.replace("assistant@base", engine.base) == written_by
            assert raw.parse().choices[0].message.content == f"{written_by} answers"
            return version

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(160)]
        for version in [*versions, *versions, "base", versions[0]]:
            body = {"version": version, "reason": "churn"}
            told = httpx.post(f"{running.address}/v1/models/assistant/promote", json=body, timeout=30)
            assert told.status_code == 200, told.text
        counts = Counter(future.result() for future in asking)
    assert sum(counts.values()) == 160
    until(lambda: all(ask(0) == f"assistant@{versions[0]}" for _ in range(8)))


def test_the_gateway_takes_little_memory(running: Served) -> None:
    workers = psutil.Process(running.process.pid).children(recursive=True)
    largest = max(worker.memory_info().rss for worker in workers)
    assert largest < 250_000_000


# -- its end


def test_a_malformed_head_does_not_keep_the_gateway_from_ending(tmp_path: Path) -> None:
    with fake_engine() as engine, served(tmp_path, [engine.url]) as gateway:
        assert b"400" in told(gateway, b"x y: 1\r\n")
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(30) == 0


def test_requests_under_way_are_finished_at_the_end_and_nothing_is_lost(tmp_path: Path) -> None:
    with fake_engine(held=True) as engine, served(tmp_path / "one", [engine.url]) as gateway:

        async def scenario() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=gateway.address, timeout=30) as client:
                body = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}]}
                asking = [
                    asyncio.create_task(
                        client.post("/v1/chat/completions", json={**body, "stream": number % 2 == 0})
                    )
                    for number in range(10)
                ]
                async with asyncio.timeout(20):
                    while len(engine.completions()) < 10:
                        await asyncio.sleep(0.01)
                gateway.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.5)  # it hears of its end while they are under way
                engine.held = False
                return await asyncio.gather(*asking)

        answers = asyncio.run(scenario())
        assert [answer.status_code for answer in answers] == [200] * 10
        assert gateway.process.wait(30) == 0
        assert list((gateway.directory / "journal").iterdir()) == []
        record = database(gateway)
        assert verify(record, gateway.directory).inferences == 10
        record.close()


def test_what_was_acknowledged_survives_a_kill_of_the_worker(tmp_path: Path) -> None:
    with fake_engine() as engine, served(tmp_path / "one", [engine.url]) as gateway:
        body = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}]}
        kept = set()
        workers = [
            child
            for child in psutil.Process(gateway.process.pid).children(recursive=True)
            if child.net_connections()
        ]
        with httpx.Client(base_url=gateway.address) as client:
            for _ in range(50):
                answer = client.post("/v1/chat/completions", json=body)
                kept.add(answer.headers["x-starloop-inference-id"])
        for worker in workers:
            worker.kill()
        until(gateway.ready, seconds=60)

        def stored() -> set[str]:
            items = httpx.get(f"{gateway.address}/v1/inferences?limit=100").json()["items"]
            return {item["id"] for item in items}

        until(lambda: stored() == kept)
