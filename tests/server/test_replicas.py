from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from feedback.errors import UnavailableError
from feedback.settings import Engine
from server.connections import Connection
from server.replicas import Engines, Replica
from server.telemetry.metrics import Metrics
from tests.server.upstream import FakeEngine, fake_engine

ASKED = b'{"model": "m", "messages": []}'


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


@asynccontextmanager
async def engines(*urls: str) -> AsyncIterator[Engines]:
    """Engines that were looked at once."""
    known = Engines([Engine(base="starter", urls=list(urls), request_seconds=5)], Metrics())
    await look(known)
    try:
        yield known
    finally:
        await known.stop()
        await asyncio.sleep(0.01)  # until the event loop has closed what was cut


def completion(replica: Replica) -> bytes:
    return replica.connections.request("POST", "/v1/chat/completions", ASKED)


def unwatched(_: Connection) -> None:
    pass


async def ask(all_engines: Engines) -> int:
    async with all_engines.ask("starter", completion, unwatched) as (connection, replica):
        await connection.read_all(replica.patience)
        return connection.status


async def look(all_engines: Engines) -> None:
    await asyncio.gather(*(replica.look() for replica in all_engines.of("starter")))


def test_a_healthy_replica_tells_what_its_base_is_called() -> None:
    with fake_engine(base="bases/somewhere", adapters={"assistant@1.0"}) as engine:

        async def scenario() -> None:
            async with engines(engine.url) as known:
                assert known.pick("starter").base_id == "bases/somewhere"
                assert known.missing() == {}

        run(scenario())


def test_a_missing_engine_is_named_with_the_reason() -> None:
    async def scenario() -> None:
        async with engines("http://127.0.0.1:9") as known:
            assert "cannot be reached" in known.missing()["starter"]
            with pytest.raises(UnavailableError, match=r"'starter' is away .*cannot be reached"):
                known.pick("starter")
            with pytest.raises(UnavailableError, match=r"no \[\[engine\]\]"):
                known.pick("another")

    run(scenario())


def test_an_engine_that_says_it_is_unwell_gets_nothing_until_it_is_well() -> None:
    with fake_engine() as engine:

        async def scenario() -> None:
            async with engines(engine.url) as known:
                engine.healthy = False
                await look(known)
                assert "not well" in known.missing()["starter"]
                engine.healthy = True
                await look(known)
                assert await ask(known) == 200

        run(scenario())


def test_the_replica_with_the_least_to_do_is_asked() -> None:
    with fake_engine(held=True) as busy, fake_engine() as idle:

        async def scenario() -> None:
            async with engines(busy.url, idle.url) as known:
                slow = asyncio.create_task(ask(known))
                while not busy.completions():
                    await asyncio.sleep(0.01)
                for _ in range(5):
                    await ask(known)
                busy.held = False
                await slow

        run(scenario())
        assert (len(busy.completions()), len(idle.completions())) == (1, 5)


def test_a_replica_that_dies_costs_no_request() -> None:
    with ExitStack() as running:
        dying, staying = (running.enter_context(fake_engine()) for _ in range(2))

        async def scenario() -> None:
            async with engines(dying.url, staying.url) as known:
                await asyncio.gather(*(ask(known) for _ in range(10)))
                await asyncio.to_thread(dying.stop)
                assert await asyncio.gather(*(ask(known) for _ in range(20))) == [200] * 20
                assert [replica.healthy for replica in known.of("starter")] == [False, True]

        run(scenario())
        dying.start()


def test_a_request_that_the_engine_began_to_answer_is_not_repeated() -> None:
    with fake_engine(cut_answer=True) as cutting, fake_engine() as other:

        async def scenario() -> None:
            async with engines(cutting.url, other.url) as known:
                with pytest.raises(UnavailableError):
                    await ask(known)

        run(scenario())
        assert (len(cutting.completions()), len(other.completions())) == (1, 0)


def test_a_connection_that_the_engine_closed_while_idle_costs_no_request() -> None:
    with fake_engine() as engine:

        async def scenario() -> None:
            async with engines(engine.url) as known:
                await ask(known)
                await asyncio.to_thread(_restart, engine)
                assert await ask(known) == 200

        run(scenario())


def test_a_slow_health_answer_alone_does_not_take_an_engine_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_engine() as engine:

        async def scenario() -> None:
            async with engines(engine.url) as known:
                engine.health_delay = 60.0
                monkeypatch.setattr("server.replicas._PATIENCE", 0.05)
                await look(known)
                await look(known)
                assert known.missing() == {}
                await look(known)
                assert "sent nothing" in known.missing()["starter"]

        run(scenario())


def test_polling_finds_an_engine_that_comes_later() -> None:
    engine = FakeEngine()
    engine.start()
    engine.stop()

    async def scenario() -> None:
        async with engines(engine.url) as known:
            await known.start()
            assert "starter" in known.missing()
            engine.start()
            async with asyncio.timeout(15):
                while known.missing():
                    await asyncio.sleep(0.05)

    try:
        run(scenario())
    finally:
        engine.stop()


def _restart(engine: FakeEngine) -> None:
    engine.stop()
    engine.start()


def test_an_engine_is_looked_at_again_whatever_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.replicas._POLL_SECONDS", 0.1)
    failures = [RuntimeError("nobody thought of this")]

    async def prepare(_base: str, _replica: Replica) -> None:
        if failures:
            raise failures.pop()

    with fake_engine() as engine:
        engine.healthy = False

        async def scenario() -> None:
            known = Engines([Engine(base="starter", urls=[engine.url])], Metrics(), prepare)
            await known.start()
            engine.healthy = True
            (replica,) = known.of("starter")
            while not replica.healthy:
                await asyncio.sleep(0.02)
            assert not failures
            await known.stop()

        run(scenario())
