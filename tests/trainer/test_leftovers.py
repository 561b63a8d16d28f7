"""Checkpoints of trainings that ended: gone at every end, swept where nobody was there, and never under somebody's hands."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from feedback.errors import DataRefusedError, StarloopError
from feedback.registry.cycles import cancel_cycle
from feedback.storage.database import Database
from feedback.tuning.requests import cancel_tuning, delete_tuning
from tests.trainer.test_tuning import ANN, EVERYBODY, Bench, chats
from tests.trainer.world import World
from trainer.cycle import run_cycle
from trainer.lease import LoopLease
from trainer.leftovers import sweep
from trainer.schedule import Loop
from trainer.training import alone_in
from trainer.turns import WindowClosedError


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, tmp_path)


def reached(world: World, name: str) -> Path:
    """A training's folder with a checkpoint, an adapter and a log in it; the checkpoint's own."""
    folder = world.directory / "runs" / name
    kept = folder / "checkpoints" / "step-00000007"
    kept.mkdir(parents=True)
    (folder / "adapter").mkdir()
    (folder / "finetune.log").write_text("as it went")
    return kept


def names(world: World, name: str) -> set[str]:
    folder = world.directory / "runs" / name
    return {one.name for one in folder.iterdir()} - {"lock", "job.lock"} if folder.exists() else set()


ENDS = {
    "failed": StarloopError("it came to nothing"),
    "failed, unexpectedly": RuntimeError("a defect"),
    "skipped": DataRefusedError("nothing to learn from"),
}


@pytest.mark.parametrize("end", list(ENDS))
def test_a_cycle_keeps_no_checkpoints_however_it_ended(world: World, end: str) -> None:
    def train(*_: Any) -> Any:
        raise ENDS[end]

    world.users_correct(60)
    world.people_confirm()
    world.make_version = train  # type: ignore[method-assign]
    cycle = world.request()
    reached(world, cycle)
    row = run_cycle(world.workshop(), world.record(cycle), pauses=())
    assert end.startswith(row.decision or row.state)
    assert names(world, cycle) == {"finetune.log"}, "the log tells why"


def test_a_cycle_that_is_cancelled_while_it_waits_for_its_window_keeps_none(world: World) -> None:
    def close(*_: Any) -> Any:
        raise WindowClosedError("waits for the training window")

    world.users_correct(60)
    world.people_confirm()
    world.make_version = close  # type: ignore[method-assign]
    cycle = world.request()
    kept = reached(world, cycle)
    assert run_cycle(world.workshop(), world.record(cycle)).state == "running"
    assert kept.exists(), "it goes on from there in the next window"
    with world.database.session() as session:
        cancel_cycle(session, cycle, world.clock())
        session.commit()
    assert run_cycle(world.workshop(), world.record(cycle)).state == "cancelled"
    assert names(world, cycle) == {"finetune.log"}


@pytest.mark.parametrize("forgotten", [False, True], ids=["cancelled", "cancelled and deleted"])
def test_a_fine_tuning_that_is_cancelled_in_its_queue_is_swept_and_none_that_goes_on(
    world: World, forgotten: bool
) -> None:
    bench = Bench(world)
    gone, waits = bench.ask(bench.sent(chats())), bench.ask(bench.sent(chats(50)))
    kept = [reached(world, one) for one in (gone, waits)]
    assert sweep(world.workshop()) == 0 and all(one.exists() for one in kept)
    with world.database.session() as session:
        cancel_tuning(session, f"ftjob-{gone}", EVERYBODY, ANN, world.clock())
        if forgotten:
            delete_tuning(session, f"ftjob-{gone}", EVERYBODY, ANN, world.clock())
        session.commit()
    if forgotten:
        assert sweep(world.workshop()) == 0, "somebody may have begun it just now"
        folder = world.directory / "runs" / gone
        long_ago = time.time() - 2 * 86_400
        for path in (*folder.iterdir(), folder):
            os.utime(path, (long_ago, long_ago))
    assert sweep(world.workshop()) == 1
    assert names(world, gone) == (set() if forgotten else {"finetune.log"})
    assert kept[1].exists() and sweep(world.workshop()) == 0


def test_what_somebody_works_in_or_may_come_back_to_is_not_swept(world: World) -> None:
    ended = world.request()
    world.record(ended).stop("failed", "by a test")
    by_hand, strange, killed = "train-0123456789abcdef", "notes of mine", "import-x1y2"
    kept = [reached(world, name) for name in (ended, by_hand, strange)]
    begun = reached(world, "import-z3")
    reached(world, killed)
    long_ago = time.time() - 90 * 86_400
    for name in (ended, by_hand, strange, killed):
        for path in (world.directory / "runs" / name, *(world.directory / "runs" / name).rglob("*")):
            os.utime(path, (long_ago, long_ago))
    with alone_in(world.directory / "runs" / ended):
        assert sweep(world.workshop()) == 1 and all(one.exists() for one in kept)
    assert names(world, killed) == set() and begun.exists()
    assert sweep(world.workshop()) == 1
    assert [one.exists() for one in kept] == [False, True, True]


def test_the_loop_that_leads_sweeps_and_one_that_stands_by_does_not(world: World) -> None:
    ended = world.request()
    world.record(ended).stop("failed", "by a test")
    kept = reached(world, ended)
    world.now = world.now.replace(minute=30)
    leading, standing = (
        Loop(world.workshop(), LoopLease(world.database, 15, world.clock), world.stopping) for _ in range(2)
    )
    leading.poll()
    standing.poll()
    standing.sweep()
    assert kept.exists()
    leading.sweep()
    assert not kept.exists()


def test_a_data_directory_in_which_nobody_trained_yet_has_nothing_to_sweep(world: World) -> None:
    assert sweep(world.workshop()) == 0
