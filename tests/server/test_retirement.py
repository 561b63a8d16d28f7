"""Retiring a version: nobody asks for it, nobody is being answered by it, no engine knows it; only then its files go."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlmodel import select

from feedback.registry.retirements import Progress, report_worker
from feedback.registry.versions import get_version
from feedback.settings import Engine, Settings
from feedback.storage.tables import GatewayWorker, Retirement
from tests.server.inside import HELLO, Answer, Inside, inside, settings_for
from tests.server.test_access import bearing, make_key
from tests.server.test_models import new_version, promote
from tests.server.upstream import FakeEngine, fake_engine

NAME = "assistant@1.0"


def retire(gateway: Inside, version: str = "1.0") -> Answer:
    return gateway.run(begin(gateway, version))


async def begin(gateway: Inside, version: str = "1.0") -> Answer:
    body = {"version": version, "reason": "a test"}
    return await gateway.send("POST", "/v1/models/assistant/retire", body)


def folder(gateway: Inside, name: str = NAME) -> Path:
    return gateway.settings.directory / "adapters" / name


def state(gateway: Inside, version: str = "1.0") -> str:
    items = gateway.call("GET", "/v1/models/assistant/versions").json["items"]
    return next(item["state"] for item in items if item["number"] == version)


def workers(gateway: Inside) -> list[GatewayWorker]:
    with gateway.gateway.database.reading() as session:
        return list(session.exec(select(GatewayWorker)))


def finished(gateway: Inside) -> bool:
    with gateway.gateway.database.reading() as session:
        return session.exec(select(Retirement)).one().finished is not None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to retire waits no longer than a second for the files to go."""
    monkeypatch.setattr("server.retirement._WAIT_SECONDS", 1.0)


def test_a_retired_version_leaves_engine_and_disk_and_its_number_stays(
    gateway: Inside, engine: FakeEngine
) -> None:
    new_version(gateway)
    gateway.ask({"model": NAME})
    assert engine.loaded == {NAME}
    told = retire(gateway)
    assert (told.status, told.json["state"], told.json["removed"]) == (200, "retired", True)
    assert told.json["waits_for"] is None
    assert (engine.loaded, list(folder(gateway).parent.iterdir())) == (set(), [])
    assert state(gateway) == "retired"
    assert gateway.ask({"model": NAME}).json["error"]["code"] == "model_not_found"
    assert new_version(gateway) == "1.1"
    again = retire(gateway, NAME)
    assert (again.status, again.json) == (200, told.json)


def test_who_retired_it_and_why_is_written_down(gateway: Inside) -> None:
    new_version(gateway)
    ann = bearing(make_key(gateway, "admin", owner="ann"))
    gateway.call("POST", "/v1/models/assistant/retire", {"version": "1.0", "reason": "old"}, ann)
    with gateway.gateway.database.reading() as session:
        row = session.exec(select(Retirement)).one()
    assert (row.reason, row.decided_by, row.finished is not None) == ("old", "ann", True)


def test_the_champion_and_the_one_before_it_stay(gateway: Inside) -> None:
    for _ in range(2):
        promote(gateway, new_version(gateway))
    for version, why in (("1.1", "is the champion"), ("1.0", "a rollback leads to it")):
        told = retire(gateway, version)
        assert (told.status, why in told.json["error"]["message"]) == (409, True)
        assert folder(gateway, f"assistant@{version}").is_dir()


@pytest.mark.parametrize("version", ["9.9", "base", "../x"])
def test_what_there_is_not_cannot_be_retired(gateway: Inside, version: str) -> None:
    assert retire(gateway, version).status == 404


def test_what_is_being_published_is_not_retired(gateway: Inside) -> None:
    number = new_version(gateway, "staged")
    assert "being published" in retire(gateway, number).json["error"]["message"]


def test_requests_under_way_end_first(gateway: Inside, engine: FakeEngine) -> None:
    new_version(gateway)
    engine.held = True

    async def scenario() -> tuple[Answer, Answer]:
        asking = asyncio.create_task(
            gateway.send("POST", "/v1/chat/completions", {**HELLO, "model": NAME, "stream": True})
        )
        await gateway.until(lambda: engine.completions())
        retiring = asyncio.create_task(begin(gateway))
        await gateway.until(lambda: not gateway.gateway.live.current.models["assistant"].versions)
        await asyncio.sleep(0.5)
        assert folder(gateway).is_dir() and not asking.done()
        assert all(request.path != "/v1/unload_lora_adapter" for request in engine.seen)
        engine.held = False
        return await asking, await retiring

    answer, told = gateway.run(scenario())
    assert answer.status == 200 and b"assistant" in answer.body and answer.body.endswith(b"[DONE]\n\n")
    assert told.json["removed"] is True


def test_a_promotion_that_warms_it_just_then_holds_the_files(gateway: Inside, engine: FakeEngine) -> None:
    new_version(gateway)
    engine.held = True

    async def scenario() -> tuple[Answer, Answer]:
        body = {"version": "1.0", "reason": "a test"}
        promoting = asyncio.create_task(gateway.send("POST", "/v1/models/assistant/promote", body))
        await gateway.until(lambda: engine.completions())
        retiring = asyncio.create_task(begin(gateway))
        await gateway.until(lambda: not gateway.gateway.live.current.models["assistant"].versions)
        engine.held = False
        return await promoting, await retiring

    promoted, retired = gateway.run(scenario())
    assert promoted.status == 409 and "retired" in promoted.json["error"]["message"]
    assert retired.json["removed"] is True
    assert engine.loaded == set()


@pytest.mark.usefixtures("impatient")
def test_an_engine_that_does_not_unload_keeps_the_files_and_is_asked_again(
    gateway: Inside, engine: FakeEngine
) -> None:
    new_version(gateway)
    gateway.ask({"model": NAME})
    engine.unloads = False
    told = retire(gateway)
    assert (told.status, told.json["state"], told.json["removed"]) == (202, "retired", False)
    assert "still lists assistant@1.0" in told.json["waits_for"]
    assert folder(gateway).is_dir() and state(gateway) == "retired"
    engine.unloads = True
    gateway.wait_for(lambda: not folder(gateway).exists())
    assert engine.loaded == set()


@pytest.mark.usefixtures("impatient")
def test_an_engine_that_cannot_be_asked_keeps_the_files(data: Path) -> None:
    with (
        fake_engine() as one,
        fake_engine() as two,
        inside(settings_for(data, [one.url, two.url])) as gateway,
    ):
        new_version(gateway)
        two.stop()
        told = retire(gateway)
        assert (told.status, two.url in told.json["waits_for"]) == (202, True)
        assert folder(gateway).is_dir()
        two.start()
        gateway.wait_for(lambda: not folder(gateway).exists())


@pytest.mark.usefixtures("impatient")
def test_an_engine_that_loads_it_again_behind_our_back_gets_the_files_back(
    gateway: Inside, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the proof that it is idle and the folder's moving away, someone asks the engine itself."""
    new_version(gateway)
    adapters = gateway.gateway.adapters
    real = adapters.move_away

    def moved_late(name: str) -> None:
        monkeypatch.setattr(adapters, "move_away", real)
        engine.loaded.add(name)
        engine.unloads = False
        real(name)

    monkeypatch.setattr(adapters, "move_away", moved_late)
    assert retire(gateway).json["removed"] is False
    assert sorted(path.name for path in folder(gateway).iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors", "starloop.json")
    ]
    engine.unloads = True
    gateway.wait_for(lambda: list(folder(gateway).parent.iterdir()) == [])


@pytest.mark.usefixtures("impatient")
def test_files_that_cannot_be_deleted_are_told_and_tried_again(
    gateway: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_version(gateway)
    real = shutil.rmtree

    def refuses(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("feedback.registry.adapters.shutil.rmtree", refuses)
    told = retire(gateway)
    assert "could not be deleted (Permission denied)" in told.json["waits_for"]
    monkeypatch.setattr("feedback.registry.adapters.shutil.rmtree", real)
    gateway.wait_for(lambda: list(folder(gateway).parent.iterdir()) == [])


def test_a_retirement_that_nobody_finished_is_finished_by_the_next_start(
    engine: FakeEngine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(data, [engine.url])
    monkeypatch.setattr("server.retirement._WAIT_SECONDS", 0.0)
    with inside(settings) as gateway:
        new_version(gateway)
        gateway.ask({"model": NAME})
        engine.unloads = False
        assert retire(gateway).status == 202
    engine.unloads = True
    assert folder(gateway).is_dir()
    with inside(settings) as later:
        later.wait_for(lambda: not folder(later).exists())
        later.wait_for(lambda: finished(later))  # a moment after the folder has gone
        assert retire(later).json["removed"] is True


@pytest.mark.usefixtures("impatient")
def test_all_workers_let_go_of_it_first(engine: FakeEngine, data: Path) -> None:
    """The other worker answers a request that the one that retires knows nothing of."""
    settings = settings_for(data, [engine.url])
    engine.held = True
    with inside(settings) as one, inside(settings) as other:
        new_version(one)
        other.gateway.live.refresh()
        other.run(other.until(lambda: other.gateway.retirements._said))

        async def asking() -> asyncio.Task[Answer]:
            task = asyncio.create_task(other.send("POST", "/v1/chat/completions", {**HELLO, "model": NAME}))
            await other.until(lambda: engine.completions())
            return task

        task = other.run(asking())
        told = retire(one)  # the other worker's loop stands still meanwhile
        assert "has not heard of it" in told.json["waits_for"]
        other.eventually(lambda: "requests are under way on it" in retire(one).json["waits_for"])
        assert folder(one).is_dir() and not task.done()

        async def answered() -> Answer:
            engine.held = False
            return await task

        assert other.run(answered()).status == 200
        other.eventually(lambda: one.run(asyncio.sleep(0.3)) or not folder(one).exists())
        assert engine.loaded == set()


@pytest.mark.usefixtures("impatient")
def test_a_worker_that_has_not_heard_of_it_is_waited_for_until_it_is_taken_for_dead(
    gateway: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_version(gateway)
    now = gateway.gateway.now()
    with gateway.gateway.database.session() as session:
        report_worker(session, "00000000", "elsewhere:7", {}, now)
        session.commit()
    told = retire(gateway)
    assert "elsewhere:7 has not heard of it" in told.json["waits_for"]
    assert folder(gateway).is_dir()
    monkeypatch.setattr("feedback.registry.retirements.SILENT_SECONDS", 0.5)
    gateway.wait_for(lambda: not folder(gateway).exists())


def test_a_worker_says_that_it_lives_and_that_it_ends(engine: FakeEngine, data: Path) -> None:
    settings = settings_for(data, [engine.url])
    with inside(settings) as one:
        with inside(settings) as other:
            other.eventually(lambda: one.run(asyncio.sleep(0.1)) or len(workers(other)) == 2)
        assert len(workers(one)) == 1


def test_versions_are_retired_under_load_and_no_request_of_others_fails(
    gateway: Inside, engine: FakeEngine
) -> None:
    versions = [new_version(gateway) for _ in range(4)]
    promote(gateway, versions[3])
    engine.delay = 0.005
    over = False

    async def asking(number: int) -> int:
        count = 0
        while not over:
            model = ("assistant", f"assistant@{versions[2]}", "assistant@base")[number % 3]
            answer = await gateway.send("POST", "/v1/chat/completions", {**HELLO, "model": model})
            assert answer.status == 200, answer.body
            count += 1
        return count

    async def retiring() -> list[Any]:
        nonlocal over
        try:
            return [(await begin(gateway, version)).json["removed"] for version in versions[:2]]
        finally:
            over = True

    async def both() -> tuple[list[Any], list[int]]:
        removed, *counts = await asyncio.gather(retiring(), *(asking(number) for number in range(12)))
        return removed, counts

    removed, counts = gateway.run(both())
    assert removed == [True, True]
    assert sum(counts) > 50


def limited(data: Path, url: str, limit: int) -> Settings:
    settings = settings_for(data, [url])
    engine = Engine(base="starter", urls=[url], max_loras=1, max_cpu_loras=limit, request_seconds=5)
    return Settings(storage=settings.storage, engine=[engine], model=settings.model)


def test_the_oldest_rejected_version_goes_when_the_engines_memory_is_full(
    engine: FakeEngine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.retirement._SIGN_OF_LIFE_SECONDS", 0.1)
    with inside(limited(data, engine.url, 4)) as gateway:
        for kind in ("registered", "rejected", "rejected", "registered"):
            new_version(gateway, kind)
        gateway.wait_for(lambda: not folder(gateway, "assistant@1.1").exists())
        gateway.wait_for(lambda: gateway.gateway.live.current.retiring == ())
        assert [state(gateway, f"1.{minor}") for minor in range(4)] == [
            *("registered", "retired", "rejected", "registered")
        ]


def test_a_rejected_version_that_has_to_stay_does_not_stand_before_the_next(
    engine: FakeEngine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.retirement._SIGN_OF_LIFE_SECONDS", 0.1)
    with inside(limited(data, engine.url, 4)) as gateway:
        for kind in ("registered", "rejected"):
            new_version(gateway, kind)
        promote(gateway, "1.0")
        promote(gateway, "1.1")
        promote(gateway, "1.0")  # a rollback now leads to 1.1
        with gateway.gateway.database.session() as session:
            get_version(session, "assistant", "1.1").state = "rejected"
            session.commit()
        for kind in ("rejected", "registered"):
            new_version(gateway, kind)
        gateway.wait_for(lambda: not folder(gateway, "assistant@1.2").exists())
        assert (state(gateway, "1.1"), state(gateway, "1.2")) == ("rejected", "retired")


def test_progress_is_kept_for_each_retirement_by_its_own_id(gateway: Inside) -> None:
    with gateway.gateway.database.session() as session:
        report_worker(session, "w", "here:1", {"a": Progress("busy", "why")}, gateway.gateway.now())
        session.commit()
    row = next(worker for worker in workers(gateway) if worker.id == "w")
    assert row.progress == {"a": {"step": "busy", "problem": "why"}}


def test_a_loop_that_promotes_again_and_again_keeps_the_newest_champions(
    engine: FakeEngine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.retirement._SIGN_OF_LIFE_SECONDS", 0.1)
    settings = limited(data, engine.url, 4)
    model = replace(settings.model[0], keep_champions=2)
    with inside(replace(settings, model=[model])) as gateway:
        for minor in range(6):
            new_version(gateway, "registered")
            promote(gateway, f"1.{minor}")
            if minor >= 3:
                gone = folder(gateway, f"assistant@1.{minor - 3}")
                gateway.wait_for(lambda gone=gone: not gone.exists())
        assert [state(gateway, f"1.{minor}") for minor in range(6)] == ["retired"] * 3 + ["promoted"] * 3
