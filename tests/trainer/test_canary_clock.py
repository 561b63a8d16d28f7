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
