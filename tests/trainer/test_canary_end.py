"""What becomes of a canary whose time is up and to which few users came."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session

from feedback.registry.arms import Arms, unit_of
from feedback.registry.canaries import open_canaries
from feedback.settings import Canary as CanarySettings
from feedback.storage.database import Database
from tests.trainer.test_canary_keeper import add, begun, keeper, read
from tests.trainer.world import World

COLOUR = "colour unknown"


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    """1.0 is in a canary of an hour, beside the base."""
    made = World(sqlite_database, tmp_path, canary=CanarySettings(share=0.5, holdback=0, hours=1.0))
    made.users_correct(120)
    made.people_confirm(old=50, new=50)
    begun(made)
    return made


def came(world: World, tried: list[str], beside: int) -> None:
    """One user for each of the outputs of the version on trial, and so many who got the base's sound answers."""
    with world.database.session() as session:
        for number, output in enumerate(tried):
            add(session, world, user_of(session, "1.0", number), "1.0", output, None)
        for number in range(beside):
            add(session, world, user_of(session, "base", number), "base", COLOUR, None)
        session.commit()


def user_of(session: Session, version: str, number: int) -> str:
    arms = Arms.of(open_canaries(session)[0])
    dealt = (
        name
        for name in map("user-{}".format, range(1000))
        if arms.version_for(unit_of(name, None, "")) == version
    )
    return [next(dealt) for _ in range(number + 1)][-1]


def ended(world: World, hours: int) -> tuple[str, str, str, str]:
    """Decision, state, champion and reason after so many hours, looked at once in each."""
    looking = keeper(world)
    for _ in range(hours):
        looking.look_at_all()
        world.now += timedelta(hours=1)
        assert looking._lease.acquire()
    looking.look_at_all()
    cycle, canary, champion = read(world)
    return cycle.decision or "", canary.state, champion, cycle.reason or ""


@pytest.mark.parametrize(
    ("tried", "beside"), [([""] * 5, 40), ([""] * 6 + [COLOUR], 60)], ids=["all", "all but one"]
)
def test_few_answers_that_are_proven_to_be_broken_are_not_promoted_when_the_time_is_up(
    world: World, tried: list[str], beside: int
) -> None:
    came(world, tried, beside)
    decision, state, champion, reason = ended(world, 1)
    assert (decision, state, champion) == ("rejected", "rolled_back", "base")
    assert reason.startswith("format: ") and "worse beyond chance" in reason


def test_one_broken_answer_proves_nothing_and_is_no_reason_to_promote(world: World) -> None:
    came(world, [""], 4)
    decision, state, champion, reason = ended(world, 3)
    assert (decision, state, champion) == ("inconclusive", "withdrawn", "base")
    assert "of its 1 answer to users not one was sound" in reason and "1.0 by hand" in reason


def test_few_sound_answers_are_promoted_on_the_gates_word_when_the_time_is_up(world: World) -> None:
    came(world, [COLOUR, COLOUR, ""], 40)
    assert ended(world, 1)[:3] == ("promoted", "passed", "1.0")
