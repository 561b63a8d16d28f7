"""How often golden cases were read before: case by case, so that a fresh one among them hides nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from feedback.storage.database import Database
from feedback.storage.tables import Cycle
from tests.trainer.test_evaluation import Asked, case, go_on
from tests.trainer.test_lease import Clock
from tests.trainer.world import MODEL, World, promising, talented
from trainer.cycle import run_cycle
from trainer.evaluation import Evaluation, PinnedVersion
from trainer.gateway import Gateway
from trainer.suites import collect


def test_each_case_is_told_with_how_many_other_versions_answered_it_before(database: Database) -> None:
    clock, transport = Clock(), Gateway("http://starloop", None, transport=httpx.MockTransport(Asked()))
    asks = Evaluation(database, transport, clock, concurrency=4, max_tokens=16)
    cases = [case(n) for n in range(600)]
    for number, some in (("base", cases), ("1.0", cases[:599]), ("1.1", cases[:2]), ("1.2", cases)):
        asks.answers(PinnedVersion("assistant", number), some, go_on)
        clock.pass_seconds(60)
    until, but = clock().timestamp(), ("base", "1.2")
    longer = Evaluation(database, transport, clock, concurrency=4, max_tokens=32)
    longer.answers(PinnedVersion("assistant", "1.3"), cases, go_on)
    longer.answers(PinnedVersion("assistant", "1.0"), cases[:1], go_on)
    assert asks.read_before("assistant", cases, but, until) == [2, 2, *[1] * 597, 0]
    assert longer.read_before("assistant", cases[598:], but, until + 1) == [2, 1]
    assert asks.read_before("another", cases[:2], but, until) == [0, 0]


def told(cycle: Cycle) -> list[str]:
    assert cycle.result is not None
    return [one["text"] for one in cycle.result["gate"]["findings"] if one["about"] == "looks"]


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return promising(sqlite_database, tmp_path)


def test_a_case_that_is_added_does_not_make_those_fresh_that_were_read(world: World) -> None:
    def cycle(turn: int) -> Cycle:
        world.users_correct(80, first=1000 * turn)
        return run_cycle(world.workshop(), world.record(world.request("report")), pauses=())

    assert told(cycle(1)) == []
    (second,) = told(cycle(2))
    assert "100 of 100 cases (100%) were read before, up to 1 time;" in second
    world.people_confirm(old=0, new=1, first=30_000)
    (third,) = told(cycle(3))
    assert "100 of 101 cases (99%) were read before, up to 2 times;" in third


def test_what_a_person_has_evaluated_is_read_too(world: World) -> None:
    world.server.versions["9.0"] = talented("old")
    with world.database.reading() as session:
        golden = collect(session, MODEL, world.settings).golden
    world.workshop().evaluation().answers(PinnedVersion(MODEL, "9.0"), golden[:40], lambda: None)
    world.now += timedelta(minutes=1)
    (note,) = told(run_cycle(world.workshop(), world.record(world.request("report")), pauses=()))
    assert "40 of 100 cases (40%) were read before, up to 1 time;" in note
