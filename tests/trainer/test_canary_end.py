"""What becomes of a canary whose time is up and to which few users came."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session

from feedback.access.audit import Actor
from feedback.registry.arms import Arms, unit_of
from feedback.registry.canaries import begin_canary, open_canaries
from feedback.registry.cycles import cancel_cycle
from feedback.settings import Canary as CanarySettings
from feedback.storage.database import Database
from tests.trainer.test_canary_keeper import add, begun, keeper, read, served
from tests.trainer.world import MODEL, World
from trainer.canary_keeper import CanaryKeeper
from trainer.cycle import run_cycle

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
    assert "of its 1 answer to users not one was sound" in reason and "by hand" not in reason


def test_few_sound_answers_are_promoted_on_the_gates_word_when_the_time_is_up(world: World) -> None:
    came(world, [COLOUR, COLOUR, ""], 40)
    assert ended(world, 1)[:3] == ("promoted", "passed", "1.0")


@pytest.mark.parametrize(
    ("kind", "decision", "state", "said"),
    [
        (
            "failed",
            "inconclusive",
            "withdrawn",
            "10 of 10 answers failed (100.0%); the other version has answered nobody",
        ),
        ("malformed", "rejected", "rolled_back", "9 of the newest 10 answers malformed (90.0%), beside 0.0%"),
    ],
)
def test_a_version_that_breaks_down_is_out_at_once_though_a_backend_calls_as_one_user(
    world: World, kind: str, decision: str, state: str, said: str
) -> None:
    with world.database.session() as session:
        backend = user_of(session, "1.0", 0)
        for number in range(100):
            if kind == "failed":
                add(session, world, backend, "1.0", "", None, status=502)
            else:
                add(session, world, backend, "1.0", "" if number % 10 else COLOUR, None)
        session.commit()
    found = ended(world, 0)
    assert found[:3] == (decision, state, "base")
    assert said in found[3]


def test_an_answer_or_two_of_the_champion_let_no_failing_version_through(world: World) -> None:
    with world.database.session() as session:
        for number in range(10):
            status = 502 if number else 200
            add(session, world, user_of(session, "1.0", number), "1.0", COLOUR, None, status=status)
        for number in range(2):
            add(session, world, user_of(session, "base", number), "base", COLOUR, None)
        session.commit()
    found = ended(world, 0)
    assert found[:3] == ("inconclusive", "withdrawn", "base")
    assert "9 of 10 answers failed (90.0%), beside 0.0%" in found[3]


def test_engines_that_fail_both_versions_take_nothing_back(world: World) -> None:
    with world.database.session() as session:
        for number in range(20):
            add(session, world, user_of(session, "1.0", number), "1.0", "", None, status=502)
        add(session, world, user_of(session, "base", 0), "base", "", None, status=502)
        session.commit()
    assert ended(world, 0)[:3] == ("", "open", "base")


@pytest.mark.parametrize(("failed", "champion"), [(3, "base"), (0, "1.0")])
def test_failures_that_nothing_can_be_held_against_are_not_promoted_when_the_time_is_up(
    world: World, failed: int, champion: str
) -> None:
    with world.database.session() as session:
        for number in range(10):
            status = 502 if number < failed else 200
            add(session, world, user_of(session, "1.0", number), "1.0", COLOUR, None, status=status)
        session.commit()
    found = ended(world, 2)
    assert found[2] == champion
    assert failed == 0 or "what was seen cannot be judged: errors: 3 of 10 answers failed" in found[3]


@pytest.mark.parametrize(("stars", "champion"), [(None, "base"), (4.5, "1.0")])
def test_a_persons_canary_moves_the_champion_by_ratings_alone(
    sqlite_database: Database, tmp_path: Path, stars: float | None, champion: str
) -> None:
    world = World(sqlite_database, tmp_path, canary=CanarySettings(share=0.5, holdback=0, hours=1.0))
    world.users_correct(120)
    world.people_confirm(old=50, new=50)
    world.learns = lambda _: COLOUR
    cycle = run_cycle(world.workshop(), world.record(world.request("propose")), pauses=())
    assert cycle.decision == "rejected"
    with world.database.session() as session:
        begin_canary(session, MODEL, "1.0", 0.5, 1.0, "let us see", Actor("ada"), None, world.clock())
        session.commit()
    served(world, 600, lambda version: stars and (stars if version == "1.0" else 3.0))
    ended(world, 1)
    _, canary, serving = read(world)
    assert serving == champion
    if stars:
        assert (canary.reason or "").startswith("canary begun by ada: ratings: ")
    else:
        assert canary.state == "withdrawn" and "a person decides" in (canary.reason or "")


@pytest.mark.parametrize(
    ("stars", "decision", "champion"), [(4.5, "promoted", "1.0"), (2.0, "rejected", "base")]
)
def test_what_was_decided_stays_decided_though_the_cycle_is_cancelled_then(
    world: World, monkeypatch: pytest.MonkeyPatch, stars: float, decision: str, champion: str
) -> None:
    served(world, 600, lambda version: stars if version == "1.0" else 3.5)
    go_on = CanaryKeeper._go_on_with_cycles

    def cancelled(looking: CanaryKeeper) -> None:
        with world.database.session() as session:
            cancel_cycle(session, read(world)[0].id, world.clock())
            session.commit()
        go_on(looking)

    monkeypatch.setattr(CanaryKeeper, "_go_on_with_cycles", cancelled)
    assert ended(world, 0)[::2] == (decision, champion)
