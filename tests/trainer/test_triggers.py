"""Cycles that begin because of what users said."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session, col, select

from feedback.ids import new_id
from feedback.settings import Schedule
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, Failure, Feedback, Inference
from tests.trainer.world import MODEL, World
from trainer.canary import Arm
from trainer.lease import LoopLease
from trainer.schedule import Loop
from trainer.triggers import fell, reason_to_begin


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, tmp_path)


def reason(world: World, **wanted: float) -> str | None:
    with world.database.reading() as session:
        return reason_to_begin(session, MODEL, Schedule(**wanted), world.clock())  # type: ignore[arg-type]


def rated(session: Session, world: World, users: int, stars: float, version: str = "base") -> list[str]:
    """Each user rates one answer of that moment; the answers' inferences."""
    draw, answers = random.Random(stars), []
    for number in range(users):
        row = Inference(
            id=new_id(world.clock()),
            created=world.now.timestamp(),
            model=MODEL,
            version=version,
            user=f"user-{number}",
            status=200,
            latency_ms=1.0,
        )
        session.add(row)
        answers.append(row.id)
        given = min(5, max(1, round(draw.gauss(stars, 0.7))))
        said = Feedback(
            id=new_id(world.clock()), inference_id=row.id, created=0.0, rater=f"user-{number}", rating=given
        )
        session.add(said)
    return answers


def test_enough_new_corrections_begin_a_cycle_and_each_counts_for_one(world: World) -> None:
    assert reason(world, new_corrections=30) is None
    world.users_correct(20)
    assert reason(world, new_corrections=30) is None
    with world.database.session() as session:
        for number in range(10):
            session.add(
                Failure(
                    id=f"f{number}",
                    inference_id=f"i{number}",
                    model=MODEL,
                    created=0.0,
                    reasons=[],
                    state="corrected",
                    resolved_by="ada",
                    resolved=world.now.timestamp(),
                )
            )
        session.commit()
    assert reason(world, new_corrections=30) == "30 new corrections"
    assert reason(world) is None
    world.now += timedelta(seconds=5)
    world.request()
    assert reason(world, new_corrections=30) is None
    world.users_correct(30, first=100)
    assert reason(world, new_corrections=30) == "30 new corrections"


def test_enough_new_ratings_begin_a_cycle_and_corrections_are_none(world: World) -> None:
    with world.database.session() as session:
        rated(session, world, 20, 3.0)
        session.commit()
    world.users_correct(20)
    assert reason(world, new_ratings=25) is None
    assert reason(world, new_corrections=25) is None
    with world.database.session() as session:
        better, worse = rated(session, world, 4, 4.0), rated(session, world, 1, 2.0)
        for said in session.exec(select(Feedback).where(col(Feedback.inference_id).in_(better))):
            said.rating, said.preferred_over = None, worse[0]
        session.commit()
    assert reason(world, new_ratings=25) == "25 new ratings"
    world.now += timedelta(seconds=5)
    world.request()
    assert reason(world, new_ratings=1) is None


def test_a_day_of_worse_ratings_begins_one_cycle(world: World) -> None:
    with world.database.session() as session:
        rated(session, world, 80, 4.3)
        world.now += timedelta(days=1)
        rated(session, world, 60, 3.2)
        session.commit()
    assert reason(world, rating_drop=0.3) is None  # the day is not over
    world.now += timedelta(days=1)
    assert (reason(world, rating_drop=0.3) or "").startswith("ratings fell from 4.")
    assert reason(world, rating_drop=2.0) is None
    world.request()
    assert reason(world, rating_drop=0.3) is None
    world.now += timedelta(days=1)
    assert reason(world, rating_drop=0.3) is None  # nobody rated that day


@pytest.mark.parametrize(
    ("users", "mean", "drop", "expected"),
    [(400, 3.6, 0.3, True), (400, 3.9, 0.3, False), (29, 2.0, 0.3, False), (40, 3.65, 0.3, False)],
    ids=["far", "less than asked", "too few", "chance"],
)
def test_ratings_fell_only_beyond_chance(users: int, mean: float, drop: float, expected: bool) -> None:
    before = Arm(users=1000, mean=4.0, variance=1.0)
    assert (fell(before, Arm(users=users, mean=mean, variance=1.0), drop) is not None) == expected


def test_the_loop_that_leads_asks_and_says_why(world: World) -> None:
    world.settings = type(world.settings)(
        **{
            name: getattr(world.settings, name)
            for name in world.settings.__struct_fields__
            if name != "schedule"
        },
        schedule=Schedule(new_corrections=10),
    )
    world.users_correct(10)
    leading = Loop(world.workshop(), LoopLease(world.database, 15, world.clock), world.stopping)
    leading.request_where_due()  # it does not lead yet
    leading.poll()
    leading.request_where_due()
    leading.request_where_due()
    with world.database.reading() as session:
        (only,) = session.exec(select(Cycle).order_by(col(Cycle.id)))
    assert (only.requested_by, only.mode) == ("10 new corrections", "auto")


def test_a_cycle_from_before_the_clock_was_set_back_keeps_no_corrections_from_counting(world: World) -> None:
    world.request()
    with world.database.session() as session:
        session.exec(select(Cycle)).one().state = "done"
        session.commit()
    world.now -= timedelta(days=365)
    world.users_correct(30)
    assert reason(world, new_corrections=30) == "30 new corrections"
    world.request()
    assert reason(world, new_corrections=30) is None
