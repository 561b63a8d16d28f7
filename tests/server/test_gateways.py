"""Several gateways on one PostgreSQL, each a process of its own, and what happens when one of them ends under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlmodel import func, select

from feedback.storage.database import Database
from feedback.storage.tables import Feedback, Inference
from feedback.storage.verify import verify
from tests.server.served import Served, served
from tests.server.upstream import FakeEngine, fake_engine
from tests.server.versions import add_version

pytestmark = pytest.mark.alone

HELLO = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}]}


@dataclass(frozen=True)
class Pair:
    """Two gateways with data directories of their own, one database, one engine and one folder of adapters."""

    one: Served
    two: Served
    database: Database
    engine: FakeEngine


@pytest.fixture(scope="module")
def database(postgresql: str) -> Iterator[Database]:
    """One for the whole module, as starting gateways takes longest."""
    admin = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE gateways"))
    made = Database(postgresql.replace("/postgres?", "/gateways?"))
    yield made
    made.close()
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE gateways WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="module")
def running(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    url = database.engine.url.render_as_string(hide_password=False)
    url = url.replace("postgresql+psycopg://", "postgresql://")
    directory = tmp_path_factory.mktemp("gateways")
    with ExitStack() as started:
        engine = started.enter_context(fake_engine())
        shared = directory / "adapters"
        shared.mkdir()
        for name in ("one", "two"):
            (directory / name / "data").mkdir(parents=True)
            (directory / name / "data" / "adapters").symlink_to(shared)
        one, two = (
            started.enter_context(served(directory / name, [engine.url], database=url))
            for name in ("one", "two")
        )
        yield Pair(one, two, database, engine)


@pytest.fixture
def pair(running: Pair) -> Pair:
    running.engine.delay = running.engine.pause = 0.0
    return running


def version_of(gateway: Served, model: str = "assistant") -> str:
    answer = httpx.post(f"{gateway.address}/v1/chat/completions", json={**HELLO, "model": model}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-starloop-version"]


def post(gateway: Served, path: str, **body: object) -> httpx.Response:
    return httpx.post(f"{gateway.address}{path}", json=body, timeout=60)


def until(condition: object, seconds: float) -> float:
    """Seconds until the condition held."""
    started = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < started + seconds
        time.sleep(0.02)
    return time.monotonic() - started


def test_a_promotion_and_a_rollback_through_one_reach_the_other_within_a_second(pair: Pair) -> None:
    number = add_version(pair.database, pair.one.directory)
    until(
        lambda: (
            post(pair.one, "/v1/models/assistant/promote", version=number, reason="a test").status_code == 200
        ),
        1,
    )
    until(lambda: version_of(pair.two) == f"assistant@{number}", 1)
    assert post(pair.two, "/v1/models/assistant/rollback", reason="a test").status_code == 200
    until(lambda: version_of(pair.one) == "assistant@base", 1)


def test_a_retirement_through_one_waits_for_the_other(pair: Pair) -> None:
    """The other has a request under way on the version."""
    number = add_version(pair.database, pair.one.directory)
    name = f"assistant@{number}"
    until(lambda: _known(pair.two, name), 20)
    pair.engine.delay = 2.0
    asked = len(pair.engine.completions())

    async def scenario() -> tuple[httpx.Response, httpx.Response, float]:
        async with httpx.AsyncClient(timeout=60) as client:
            asking = asyncio.create_task(
                client.post(f"{pair.two.address}/v1/chat/completions", json={**HELLO, "model": name})
            )
            async with asyncio.timeout(20):
                while len(pair.engine.completions()) == asked:
                    await asyncio.sleep(0.01)
            started = time.monotonic()
            told = await client.post(
                f"{pair.one.address}/v1/models/assistant/retire", json={"version": number, "reason": "a test"}
            )
            return await asking, told, time.monotonic() - started

    answer, told, seconds = asyncio.run(scenario())
    assert (answer.status_code, told.status_code, told.json()["removed"]) == (200, 200, True)
    assert seconds > 1.0
    assert not (pair.one.directory / "adapters" / name).exists()
    assert name not in pair.engine.loaded


def _known(gateway: Served, name: str) -> bool:
    return httpx.post(
        f"{gateway.address}/v1/chat/completions", json={**HELLO, "model": name}, timeout=10
    ).is_success


def test_feedback_goes_through_either_and_nothing_stands_twice(pair: Pair) -> None:
    """Every answer is rated at the gateway that did not give it, at once and twice over, by nobody named."""

    async def scenario() -> tuple[list[str], list[int]]:
        async with httpx.AsyncClient(timeout=60) as client:

            async def turn(number: int) -> tuple[str, list[int]]:
                asked, rated = (pair.one, pair.two) if number % 2 else (pair.two, pair.one)
                request = {**HELLO, "user": f"user {number}"}
                answer = await client.post(f"{asked.address}/v1/chat/completions", json=request)
                identifier = answer.headers["x-starloop-inference-id"]
                statuses = []
                for rating in (1, 5):  # of the inference's own user, whom the other gateway cannot know yet
                    body = {"inference_id": identifier, "rating": rating}
                    told = await client.post(f"{rated.address}/v1/feedback", json=body)
                    statuses.append(told.status_code)
                return identifier, statuses

            turns = await asyncio.gather(*(turn(number) for number in range(120)))
        return [one for one, _ in turns], [status for _, statuses in turns for status in statuses]

    identifiers, statuses = asyncio.run(scenario())
    assert len(set(identifiers)) == 120
    assert set(statuses) <= {201, 202}

    def ratings(gateway: Served) -> Counter[int | None]:
        items = httpx.get(f"{gateway.address}/v1/inferences?limit=1000", timeout=30).json()["items"]
        mine = [item for item in items if item["id"] in identifiers]
        assert len({item["id"] for item in mine}) == len(mine)
        return Counter(item["rating"] for item in mine)

    for gateway in (pair.one, pair.two):
        until(lambda gateway=gateway: ratings(gateway) == {5: 120}, 20)
    until(
        lambda: _stored(pair.database, Feedback) == 240, 20
    )  # the first ratings may come after the second ones
    found = verify(pair.database, pair.one.directory)
    assert (found.feedback, found.duplicated, found.sound) == (240, 0, True)


# -- the end of one, under load


@dataclass
class Balanced:
    """Clients before several gateways, as a balancer is: what none of them began to answer goes to the next one.

    A connection that still stands in the queue of a listener when that closes is reset by the system, unread. That the
    gateway had not begun such a request shows in the record: it holds no inference but those that were answered.
    """

    addresses: list[str]
    answers: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    failed: list[str] = field(default_factory=list)
    over: bool = False

    async def ask(self, client: httpx.AsyncClient, number: int) -> None:
        body = {**HELLO, "stream": number % 2 == 0}
        for address in self.addresses[number % 2 :] + self.addresses[: number % 2]:
            request = client.build_request("POST", f"{address}/v1/chat/completions", json=body)
            try:
                answer = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                self.unread += 1
                continue
            try:
                content = await answer.aread()
            except httpx.HTTPError as error:
                self.failed.append(f"{address}: {error!r}")
                return
            whole = content.endswith(b"data: [DONE]\n\n" if body["stream"] else b"}")
            if answer.status_code != 200 or not whole:
                self.failed.append(f"{address}: {answer.status_code} {content[:200]!r}")
            self.answers[address] += 1
            return
        self.over = True

    async def client(self, start: int) -> None:
        number = start
        async with httpx.AsyncClient(timeout=30) as client:
            while not self.over:
                await self.ask(client, number)
                number += 1


def test_a_gateway_that_ends_under_load_fails_no_request(pair: Pair) -> None:
    """The last one with this pair: only one of them is left."""
    before = _stored(pair.database, Inference)
    pair.engine.delay, pair.engine.pause = 0.05, 0.02
    load = Balanced([pair.one.address, pair.two.address])

    async def scenario() -> None:
        clients = [asyncio.create_task(load.client(number)) for number in range(12)]
        async with asyncio.timeout(20):
            while load.answers[pair.one.address] <= 20:
                await asyncio.sleep(0.05)
        pair.one.process.send_signal(signal.SIGTERM)
        alone = load.answers[pair.two.address] + 40
        async with asyncio.timeout(20):
            while load.answers[pair.two.address] < alone or pair.one.process.poll() is None:
                await asyncio.sleep(0.05)
        assert not load.over
        load.over = True
        await asyncio.gather(*clients)

    asyncio.run(scenario())
    assert load.failed == []
    assert pair.one.process.wait(60) == 0
    until(lambda: _stored(pair.database, Inference) == before + sum(load.answers.values()), 20)
    assert verify(pair.database, pair.one.directory).sound


def _stored(database: Database, kind: type[Inference] | type[Feedback]) -> int:
    with database.reading() as session:
        return int(session.exec(select(func.count()).select_from(kind)).one())


def test_two_workers_that_end_under_load_finish_what_they_began(tmp_path: Path) -> None:
    with fake_engine(delay=0.05, pause=0.02) as engine, served(tmp_path / "one", [engine.url], 2) as gateway:
        load = Balanced([gateway.address])

        async def scenario() -> None:
            clients = [asyncio.create_task(load.client(number)) for number in range(12)]
            async with asyncio.timeout(20):
                while load.answers[gateway.address] <= 20:
                    await asyncio.sleep(0.05)
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            load.over = True
            await asyncio.gather(*clients)

        asyncio.run(scenario())
        assert load.failed == []
        assert gateway.process.wait(60) == 0
        record = Database(f"sqlite:///{gateway.directory / 'starloop.sqlite'}")
        found = verify(record, gateway.directory)
        record.close()
        assert (found.inferences, found.sound) == (load.answers[gateway.address], True)
