"""`/pages/events`: who is told of what, how often the database is asked for it, and when a stream ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from feedback.access.keys import revoke_key
from feedback.errors import UnavailableError
from feedback.reports.pulse import Pulse, Topic
from feedback.storage.database import Database
from feedback.storage.tables import Cycle
from server import updates
from server.updates import Updates
from tests.server.inside import Answer, Inside
from tests.server.served import served
from tests.server.test_access import bearing, make_key
from tests.server.turns import add_cycle
from tests.server.upstream import fake_engine

TOPIC = Topic("cycles", "assistant")


@dataclass
class Record:
    """A record whose topics all stand the same."""

    mark: str = "a"
    looks: list[Collection[Topic]] = field(default_factory=list)
    away: bool = False

    def read(self, topics: Collection[Topic]) -> dict[Topic, Pulse]:
        self.looks.append(list(topics))
        if self.away:
            raise UnavailableError("the database is away")
        return {topic: Pulse(self.mark) for topic in topics}


async def told(
    hub: Updates, caller: str = "ann", topic: Topic = TOPIC, may: Callable[[], bool] = lambda: True
) -> list[str]:
    """The marks that a listener hears until its stream ends."""
    heard = []
    async for piece in hub.listen(topic, caller, may):
        if piece.startswith(b"data: "):
            heard.append(msgspec.json.decode(piece[6:])["mark"])
        elif not piece.startswith(b"retry"):
            heard.append(piece.decode().strip().partition("\n")[0])
    return heard


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 20))

    return run


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():
            await asyncio.sleep(0.005)


@awaited
async def test_many_listeners_cost_one_look_and_are_told_of_changes_alone() -> None:
    record = Record()
    hub = Updates(record.read, 0.01)
    listening = [asyncio.create_task(told(hub, topic=Topic("cycles", f"m{n % 2}"))) for n in range(20)]
    await until(lambda: len(record.looks) > 4)
    assert all(len(topics) <= 2 for topics in record.looks)
    record.mark = "b"
    looked = len(record.looks)
    await until(lambda: len(record.looks) > looked + 3)
    hub.stop()
    assert await asyncio.gather(*listening) == [["a", "b"]] * 20


@awaited
async def test_with_nobody_listening_nothing_is_looked_up_and_a_later_listener_is_told() -> None:
    record = Record()
    hub = Updates(record.read, 0.01)
    one = asyncio.create_task(told(hub))
    await until(lambda: bool(record.looks))
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    await until(lambda: hub.listeners == 0)
    await asyncio.sleep(0.05)
    looked = len(record.looks)
    await asyncio.sleep(0.1)
    assert len(record.looks) == looked
    record.mark = "b"
    again = asyncio.create_task(told(hub))
    await until(lambda: len(record.looks) > looked + 2)
    hub.stop()
    assert await again == ["b"]


@awaited
async def test_a_listener_that_may_no_longer_see_it_is_sent_away() -> None:
    record, allowed = Record(), [True]
    hub = Updates(record.read, 0.01)
    one = asyncio.create_task(told(hub, may=lambda: allowed[0]))
    await until(lambda: len(record.looks) > 1)  # it was told what the first one found
    allowed[0] = False
    assert await asyncio.wait_for(one, 5) == ["a", "event: ended"]
    assert hub.listeners == 0


@awaited
async def test_with_the_database_away_streams_stay_and_go_on_later() -> None:
    record = Record()
    hub = Updates(record.read, 0.01)
    one = asyncio.create_task(told(hub))
    await until(lambda: len(record.looks) > 1)
    record.away, record.mark = True, "b"
    looked = len(record.looks)
    await until(lambda: len(record.looks) > looked + 3)
    record.away = False
    looked = len(record.looks)
    await until(lambda: len(record.looks) > looked + 3)
    hub.stop()
    assert await one == ["a", "b"]


@awaited
async def test_a_quiet_stream_is_kept_open_and_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(updates, "_LIFE_SECONDS", 0.4)
    heard = await asyncio.wait_for(told(Updates(Record().read, 0.01)), 5)
    assert heard[0] == "a" and 1 <= heard.count(": still here") <= 8 and set(heard[1:]) == {": still here"}


@awaited
async def test_streams_are_bounded_for_a_worker_and_for_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "MOST", 3)
    monkeypatch.setattr(updates, "MOST_OF_ONE", 2)
    hub = Updates(Record().read, 0.01)
    listening = [asyncio.create_task(told(hub, "ann")) for _ in range(2)]
    await until(lambda: hub.listeners == 2)
    with pytest.raises(UnavailableError, match="too many pages"):
        hub.need_room("ann")
    hub.need_room("bob")
    listening.append(asyncio.create_task(told(hub, "bob")))
    await until(lambda: hub.listeners == 3)
    with pytest.raises(UnavailableError):
        hub.need_room("eve")
    hub.stop()
    await asyncio.gather(*listening)
    assert hub.listeners == 0


# -- over HTTP


def listen(gateway: Inside, address: str, headers: dict[str, str] | None = None) -> Answer:
    """Until something was told, or it was refused."""
    sent = gateway.send(
        "GET", f"/pages/events?{address}", None, headers, leaves=lambda told: bool(pulses(told))
    )
    return gateway.run(sent)


def pulses(answer: Answer) -> list[Any]:
    return [json.loads(event[6:]) for event in answer.body.split(b"\n\n") if event.startswith(b"data: ")]


def test_a_cycle_is_followed_from_step_to_decision(gateway: Inside) -> None:
    going: dict[str, Any] = {"state": "running", "decision": None, "reason": None, "result": None}
    cycle = add_cycle(gateway.gateway.database, gateway.gateway.now(), None, **going)

    heard = 0

    def twice(told: Answer) -> bool:
        nonlocal heard
        heard = len(pulses(told))
        return heard == 2

    async def watch() -> Answer:
        hearing = asyncio.create_task(
            gateway.send("GET", f"/pages/events?about=cycle&of={cycle}", leaves=twice)
        )
        await gateway.until(lambda: heard == 1)

        def end() -> None:
            with gateway.gateway.database.session() as session:
                row = session.get_one(Cycle, cycle)
                row.state, row.decision = "done", "rejected"
                session.add(row)
                session.commit()

        await asyncio.to_thread(end)
        return await hearing

    answer = gateway.run(watch())
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    marks = [pulse["mark"] for pulse in pulses(answer)]
    assert len(marks) == 2 and marks[0] != marks[1]
    gateway.wait_for(lambda: gateway.gateway.updates.listeners == 0)
    text = gateway.call("GET", f"/cycles/{cycle}").body.decode()
    assert f'data-mark="{marks[1]}"' in text


def test_review_is_told_how_many_wait(gateway: Inside) -> None:
    answer = listen(gateway, "about=review&of=assistant")
    assert [pulse["facts"] for pulse in pulses(answer)] == [{"waiting": 0, "held": 0}]


@pytest.mark.parametrize(
    ("scope", "about", "status"),
    [
        ("review", "review", 200),
        ("review", "overview", 200),
        ("train", "overview", 200),
        ("train", "cycles", 200),
        ("train", "review", 403),
        ("review", "cycles", 403),
        ("infer", "overview", 403),
    ],
)
def test_each_scope_hears_what_its_pages_show(gateway: Inside, scope: str, about: str, status: int) -> None:
    headers = bearing(make_key(gateway, scope))
    assert listen(gateway, f"about={about}&of=assistant", headers).status == status


def test_a_key_for_another_model_hears_nothing_of_this_one(gateway: Inside) -> None:
    headers = bearing(make_key(gateway, "train", models=["other"]))
    cycle = add_cycle(gateway.gateway.database, gateway.gateway.now(), None)
    assert listen(gateway, "about=cycles&of=assistant", headers).status == 403
    assert listen(gateway, f"about=cycle&of={cycle}", headers).status == 403


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("", 400),
        ("about=secrets&of=assistant", 400),
        ("about=cycle&of=x", 400),
        ("about=cycles&of=nobody", 404),
        ("about=cycle&of=01890000-0000-7000-8000-000000000000", 404),
    ],
)
def test_what_there_is_not_cannot_be_followed(gateway: Inside, address: str, status: int) -> None:
    assert listen(gateway, address).status == status


def test_a_revoked_key_ends_its_streams(gateway: Inside) -> None:
    secret = make_key(gateway, "train")
    known = gateway.gateway.live.current.by_id

    async def watch() -> Answer:
        hearing = asyncio.create_task(
            gateway.send("GET", "/pages/events?about=cycles&of=assistant", None, bearing(secret))
        )
        await gateway.until(lambda: gateway.gateway.updates.listeners == 1)

        def revoke() -> None:
            with gateway.gateway.database.session() as session:
                for key in known.values():
                    if not key.internal:
                        revoke_key(session, key.id, gateway.gateway.now())
                session.commit()

        await asyncio.to_thread(revoke)
        return await hearing

    answer = gateway.run(watch())
    assert answer.complete and b"event: ended" in answer.body


def test_every_worker_tells_its_listeners_and_lets_go_of_them_at_sigterm(tmp_path: Path) -> None:
    with (
        fake_engine() as engine,
        served(tmp_path, [engine.url], workers=2) as gateway,
        ThreadPoolExecutor(6) as pool,
        closing(Database(f"sqlite:///{gateway.directory / 'starloop.sqlite'}")) as database,
    ):
        heard: list[list[str]] = [[] for _ in range(6)]

        def hear(marks: list[str]) -> float:
            """Until the stream ends; when that was."""
            address = f"{gateway.address}/pages/events?about=cycles&of=assistant"
            with httpx.stream("GET", address, timeout=60) as stream:
                for line in stream.iter_lines():
                    if line.startswith("data: "):
                        marks.append(json.loads(line[6:])["mark"])
            return time.monotonic()

        ends = [pool.submit(hear, marks) for marks in heard]
        deadline = time.monotonic() + 60
        while not all(heard) and time.monotonic() < deadline:
            time.sleep(0.05)
        add_cycle(database, datetime.now(UTC), None)
        while {len(marks) for marks in heard} != {2} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [len(marks) for marks in heard] == [2] * 6 and len({tuple(marks) for marks in heard}) == 1
        asked = time.monotonic()
        gateway.process.terminate()
        assert max(end.result(60) for end in ends) - asked < 30  # a stream's life is 300 s
        assert gateway.process.wait(30) == 0
