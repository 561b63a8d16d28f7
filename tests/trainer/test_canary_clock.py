"""A machine's clock is set, or the machine sleeps, while users compare two versions."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from feedback.settings import Canary as CanarySettings
from feedback.storage.database import Database
from tests.trainer.test_canary_keeper import begun, read, served
from tests.trainer.world import World
from trainer.canary_keeper import CanaryKeeper
from trainer.lease import LoopLease


@pytest.mark.parametrize("hours", [24, -24])
def test_a_clock_that_was_set_ends_no_canary(sqlite_database: Database, tmp_path: Path, hours: int) -> None:
    world = World(sqlite_database, tmp_path, canary=CanarySettings(share=0.5, holdback=0, hours=1.0))
    world.users_correct(120)
    world.people_confirm(old=50, new=50)
    begun(world)
    served(world, 40, lambda _: 3.5)
    world.now += timedelta(minutes=1)  # whoever led before is gone
    lease, passed = LoopLease(world.database, 15, world.clock), 0.0
    keeper = CanaryKeeper(world.workshop(), lease, world.stopping, lambda: passed)

    def look() -> None:
        assert lease.acquire()
        keeper.look_at_all()

    look()
    limit = read(world)[1].limit
    world.now += timedelta(hours=hours, minutes=30)  # half an hour passes, and the clock is set
    passed += 1800
    look()
    cycle, canary, champion = read(world)
    assert (cycle.state, canary.state, champion) == ("canary", "open", "base")
    assert canary.limit == pytest.approx(limit + 3600 * hours)
    world.now += timedelta(minutes=30)
    passed += 1800
    look()
    cycle, canary, champion = read(world)
    assert (cycle.decision, canary.state, champion) == ("promoted", "passed", "1.0")


def on_trial(database: Database, directory: Path) -> World:
    """A world whose 1.0 is in a canary of an hour, and whoever led until then is gone."""
    world = World(database, directory, canary=CanarySettings(share=0.5, holdback=0, hours=1.0))
    world.users_correct(120)
    world.people_confirm(old=50, new=50)
    begun(world)
    world.now += timedelta(minutes=1)
    return world


@pytest.mark.parametrize("watched", [True, False], ids=["while a loop looks", "while none does"])
def test_what_breaks_after_the_clock_was_set_back_is_rolled_back_at_once(
    sqlite_database: Database, tmp_path: Path, watched: bool
) -> None:
    world = on_trial(sqlite_database, tmp_path)
    lease, passed = LoopLease(world.database, 15, world.clock), 0.0
    keeper = CanaryKeeper(world.workshop(), lease, world.stopping, lambda: passed)
    assert lease.acquire()
    if watched:
        keeper.look_at_all()
    world.now -= timedelta(hours=5)
    keeper.look_at_all()
    world.now += timedelta(seconds=5)
    passed += 5
    served(world, 60, lambda _: None, lambda version: "" if version == "1.0" else "colour unknown")
    keeper.look_at_all()
    cycle, canary, champion = read(world)
    assert (cycle.decision, canary.state, champion) == ("rejected", "rolled_back", "base")
    assert canary.reason is not None and canary.reason.startswith("format: ")


@pytest.mark.parametrize("hours", [5, -5])
def test_a_canary_that_nobody_asked_gets_its_own_time_again_also_where_the_clock_was_set(
    sqlite_database: Database, tmp_path: Path, hours: int
) -> None:
    world = on_trial(sqlite_database, tmp_path)
    lease, passed = LoopLease(world.database, 15, world.clock), 0.0
    keeper = CanaryKeeper(world.workshop(), lease, world.stopping, lambda: passed)

    def look_after(seconds: float, set_by: float = 0.0) -> str:
        nonlocal passed
        passed += seconds
        world.now += timedelta(seconds=seconds, hours=set_by)
        assert lease.acquire()
        keeper.look_at_all()
        return read(world)[1].state

    look_after(1)
    assert look_after(1, hours) == "open"
    assert look_after(3600) == "open"  # nobody came: once more
    assert look_after(3400) == "open"
    assert look_after(200) == "withdrawn"
    assert read(world)[2] == "base"


def test_what_a_time_server_corrects_moves_no_limit(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, tmp_path, canary=CanarySettings(share=0.5, holdback=0, hours=1.0))
    world.users_correct(120)
    world.people_confirm(old=50, new=50)
    begun(world)
    world.now += timedelta(minutes=1)
    lease = LoopLease(world.database, 15, world.clock)
    assert lease.acquire()
    keeper = CanaryKeeper(world.workshop(), lease, world.stopping, lambda: 0.0)
    keeper.look_at_all()
    limit = read(world)[1].limit
    for _ in range(3):
        world.now += timedelta(seconds=5)
        keeper.look_at_all()
    assert read(world)[1].limit == limit
