"""Trainings whose window is too short for them: noticed, told, counted, and foreseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlmodel import select

from feedback.settings import Settings, Storage, Training
from feedback.storage.database import Database
from feedback.storage.tables import Cycle
from tests.trainer.test_doctor import _told
from tests.trainer.test_publication import FakeTraining
from tests.trainer.test_schedule import loop
from tests.trainer.test_tuning import Bench, chats
from tests.trainer.world import MODEL, World
from trainer import publication
from trainer.checkpoints import write_checkpoint
from trainer.nights import NIGHTS, counted, too_short, vain
from trainer.preflight import Preflight
from trainer.turns import Hours, WindowClosedError

NIGHT = Training(window="02:00-05:00", engine_asleep=True)


def window_in(folder: Path, checkpoint: int | None = None) -> str:
    """What is told at the end of a window in which a training came to this checkpoint."""
    with pytest.raises(WindowClosedError) as told, counted(folder, NIGHT):
        if checkpoint is not None:
            write_checkpoint(folder, checkpoint, "digest", b"", {})
        raise WindowClosedError("waits for the window")
    return str(told.value)


def test_windows_in_vain_are_counted_until_one_brings_the_training_further(tmp_path: Path) -> None:
    first, second = window_in(tmp_path), window_in(tmp_path)
    assert first.startswith(
        "waits for the window; it came not as far as its first checkpoint in the 0 s that it had: "
    )
    assert "Widen [training] window (02:00-05:00), or lower [training] checkpoint_seconds (60)" in first
    assert "had, twice in a row:" in second
    assert window_in(tmp_path, 40) == "waits for the window" and vain(tmp_path) is None
    assert "no further than its checkpoint at step 40" in window_in(tmp_path)
    assert window_in(tmp_path, 20) == "waits for the window", "back to its best weights is no standstill"
    assert "had, the 4th window in a row:" in [window_in(tmp_path) for _ in range(4)][-1]
    with counted(tmp_path, NIGHT):
        pass
    assert vain(tmp_path) is None and not (tmp_path / NIGHTS).exists()


def closing(world: World) -> Any:
    """A training that is at work until its window closes, and comes to no checkpoint."""

    def make_version(_: Any, on_progress: Any) -> Any:
        world.now = world.now.replace(hour=5)
        Hours.of(NIGHT).check_going_on(world.clock())

    return make_version


def test_a_cycles_reason_keeps_saying_it_while_it_waits_and_so_does_doctor(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path, training=Training(window="02:00-05:00"))
    world.users_correct(60)
    world.people_confirm()
    world.now = world.now.replace(hour=2)
    whole, world.make_version = world.make_version, closing(world)  # type: ignore[method-assign]
    identifier = world.request()
    leading = loop(world)
    assert leading.poll() and not leading.poll() and not leading.poll()

    def reason() -> str:
        with world.database.reading() as session:
            return session.exec(select(Cycle)).one().reason or ""

    assert reason().startswith("waits for the training window (02:00-05:00 UTC, opens 02 Mar 02:00)")
    assert "it came not as far as its first checkpoint" in reason() and "Widen [training] window" in reason()
    settings = Settings(storage=Storage(directory=str(tmp_path)), training=NIGHT)
    found = _told(settings)["training window"]
    assert found.state == "warning" and found.text.startswith(f"{identifier}: it came not as far as")
    world.make_version = whole  # type: ignore[method-assign]
    world.now = world.now.replace(day=2, hour=2, minute=5)
    assert loop(world).poll()
    assert _told(settings)["training window"].state == "ok"


def test_a_fine_tuning_says_it_too(sqlite_database: Database, tmp_path: Path) -> None:
    bench = Bench(World(sqlite_database, tmp_path, training=Training(window="02:00-05:00")))
    bench.world.now = bench.world.now.replace(hour=2)
    identifier = bench.ask(bench.sent(chats()))
    leading = bench.loop()
    object.__setattr__(leading._workshop, "make_tuned", closing(bench.world))
    assert leading.poll()
    row = bench.row(identifier)
    assert row.state == "queued" and "it came not as far as its first checkpoint" in row.messages[-1]["text"]


def planned(seconds: float, epochs: int = 1) -> Preflight:
    return Preflight(
        device="cpu",
        rows=160,
        tokens=1,
        epochs=epochs,
        memory=None,
        seconds=seconds,
        beside=30.0,
        cost=None,
        rests_on="a test",
    )


@pytest.mark.parametrize(
    ("changes", "seconds", "warned"),
    [
        ({}, 90_000.0, ""),
        (
            {"window": "02:00-02:01"},
            90_000.0,
            "take about 150 min, and [training] window (02:00-02:01 UTC) has 60 s",
        ),
        ({"window": "02:00-02:01"}, 50.0, ""),  # done within it
        (
            {"window": "02:00-02:01"},
            400.0,
            "take about 90 s, and",
        ),  # 10 steps; the next checkpoint after a minute
        ({"window": "02:00-02:01", "checkpoint_seconds": 5.0}, 320.0, ""),
        ({"window": "02:00-02:01", "engine_asleep": False}, 90_000.0, ""),  # what has begun goes on
        ({"window": "23:59-00:01", "checkpoint_seconds": 300.0}, 4000.0, "has 2 min"),
        ({"window": "", "engine_asleep": False}, 90_000.0, ""),
    ],
)
def test_a_window_too_short_for_one_checkpoint_is_foreseen(
    changes: dict[str, Any], seconds: float, warned: str
) -> None:
    told = too_short(planned(seconds), replace(NIGHT, **changes))
    assert (told is None) == (warned == "") and warned in (told or "")


def test_it_is_logged_before_a_training_of_the_loop_and_not_before_one_by_hand(
    sqlite_database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(World(sqlite_database, tmp_path))
    monkeypatch.setattr(publication, "train", FakeTraining())
    monkeypatch.setattr(publication, "planned_for", lambda *_: planned(90_000.0))
    identifier = bench.ask(bench.sent(chats()))
    assert bench.loop().poll()
    assert "no window would bring it further" not in caplog.text  # it keeps to none
    dataset = bench.row(identifier).dataset_id
    assert dataset is not None
    settings = replace(bench.world.settings, training=replace(NIGHT, window="02:00-02:01"))
    for origin in ({}, {"fine_tuning": "ftjob-1"}):
        publication.train_version(
            bench.database,
            settings,
            bench.world.clock,
            MODEL,
            dataset,
            tmp_path / "runs" / "again",
            lambda _: None,
            origin=origin,
        )
        assert ("no window would bring it further" in caplog.text) == bool(origin)


def test_doctor_warns_of_such_a_window(tmp_path: Path) -> None:
    training = Training(window="02:00-02:01", engine_asleep=True, teraflops=0.0001)
    found = _told(Settings(storage=Storage(directory=str(tmp_path)), training=training))
    assert found["training assistant"].state == "warning"
    assert "no window would bring it further" in found["training assistant"].text
