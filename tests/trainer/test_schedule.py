"""When cycles run, and who runs them."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from sqlmodel import col, select

from feedback.registry.cycles import cancel_cycle
from feedback.settings import Capture, Schedule, Training
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, Inference, MonthlyFinding
from feedback.storage.verify import verify
from tests.trainer.world import MODEL, World
from trainer.cycle import run_cycle
from trainer.lease import LoopLease, leader
from trainer.schedule import Loop
from trainer.steps import STEPS


def cycles(world: World) -> list[Cycle]:
    with world.database.reading() as session:
        return list(session.exec(select(Cycle).order_by(col(Cycle.id))))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[BackgroundScheduler]:
    """The schedulers that loops have started, in order."""
    schedulers: list[BackgroundScheduler] = []

    class Seen(BackgroundScheduler):
        def start(self, *args: object, **named: object) -> None:
            super().start(*args, **named)
            schedulers.append(self)

    monkeypatch.setattr("trainer.schedule.BackgroundScheduler", Seen)
    return schedulers


def nobody_leads(world: World) -> bool:
    with world.database.reading() as session:
        return leader(session, world.now) is None


def loop(world: World, lease: LoopLease | None = None) -> Loop:
    lease = lease or LoopLease(world.database, 15, world.clock)
    return Loop(world.workshop(), lease, world.stopping)


def test_a_queued_cycle_is_run_by_the_loop_that_leads(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, tmp_path)
    leading, standing_by = loop(world), loop(world)
    assert not leading.poll()
    world.request()
    assert not standing_by.poll()
    assert cycles(world)[0].state == "queued"
    assert leading.poll()
    assert (cycles(world)[0].state, cycles(world)[0].decision) == ("done", "skipped")
    assert not leading.poll()


def test_a_cycle_that_its_loop_left_running_is_gone_on_with_by_the_next(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    world.record(world.request()).begin("triage")
    assert cycles(world)[0].state == "running"
    assert not loop(world).poll()  # whoever led may still be at it
    world.now += timedelta(minutes=1)
    assert loop(world).poll()
    assert cycles(world)[0].state == "done"
    assert cycles(world)[0].steps[0]["resumed"] == 1


def test_by_the_clock_every_model_gets_a_cycle_unless_it_has_one(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    leading, standing_by = loop(world), loop(world)
    leading.poll()
    standing_by.poll()
    standing_by.request_all()
    assert cycles(world) == []
    leading.request_all()
    leading.request_all()
    (only,) = cycles(world)
    assert (only.model, only.mode, only.requested_by) == (MODEL, "auto", "schedule")


def test_a_loop_that_slept_while_another_led_asks_for_nothing(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    slept, leading = loop(world), loop(world)
    slept.poll()
    world.now += timedelta(hours=1)
    leading.poll()
    slept.request_all()
    assert cycles(world) == []


def test_the_loop_works_until_it_is_told_to_stop_and_lets_the_next_one_lead(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path, schedule=Schedule(cron="* * * * *", poll_seconds=0.05))
    lease = LoopLease(world.database, 15, world.clock)
    thread = threading.Thread(target=loop(world, lease).run)
    world.request()  # before the loop starts, which asks for one at every full minute
    thread.start()
    deadline = time.monotonic() + 30
    while cycles(world)[0].state != "done" and time.monotonic() < deadline:
        time.sleep(0.05)
    world.stopping.set()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert cycles(world)[0].state == "done"
    assert LoopLease(world.database, 15, world.clock).acquire()


def test_what_was_planned_by_a_clock_that_was_ahead_is_planned_anew_when_it_is_set_back(
    sqlite_database: Database, tmp_path: Path, made: list[BackgroundScheduler]
) -> None:
    def planned() -> list[timedelta]:
        return [job.next_run_time - datetime.now(UTC) for job in made[0].get_jobs()]

    schedule = Schedule(cron="0 3 * * *", new_corrections=5, poll_seconds=0.05)
    world = World(sqlite_database, tmp_path, schedule=schedule)
    thread = threading.Thread(target=loop(world).run)
    thread.start()
    deadline = time.monotonic() + 30
    while not made and time.monotonic() < deadline:
        time.sleep(0.05)
    while nobody_leads(world) and time.monotonic() < deadline:  # by then it has looked at the clock
        time.sleep(0.05)
    for job in made[0].get_jobs():  # as a clock has it that was a year ahead
        job.modify(next_run_time=datetime.now(UTC) + timedelta(days=365))
    count = len(planned())
    world.now -= timedelta(days=365)
    found: list[timedelta] = []
    while time.monotonic() < deadline:  # what is planned anew comes job by job
        found = planned()
        if len(found) == count and max(found) <= timedelta(days=1):
            break
        time.sleep(0.05)
    world.stopping.set()
    thread.join(timeout=10)
    assert len(found) == count == 6
    assert max(found) <= timedelta(days=1)


def test_a_loop_whose_database_is_away_goes_on(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, tmp_path)
    leading = loop(world)
    assert not leading.poll()
    file = tmp_path / "starloop.sqlite"
    sqlite_database.close()
    moved = file.rename(tmp_path / "away.sqlite")
    file.mkdir()
    world.stopping.set()  # so that the pause after trouble is short
    assert not leading.poll()
    world.stopping.clear()
    file.rmdir()
    moved.rename(file)
    world.request()
    assert leading.poll()


def test_a_cycle_that_was_due_while_the_database_was_away_is_asked_for_when_it_is_back(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    leading = loop(world)
    leading.poll()
    file = tmp_path / "starloop.sqlite"
    sqlite_database.close()
    moved = file.rename(tmp_path / "away.sqlite")
    file.mkdir()
    leading.request_all()
    leading.request_owed()
    file.rmdir()
    moved.rename(file)
    leading.request_owed()
    leading.request_owed()
    (only,) = cycles(world)
    assert (only.model, only.requested_by, only.state) == (MODEL, "schedule", "queued")
    with world.database.session() as session:
        cancel_cycle(session, only.id, world.clock())
        session.commit()
    leading.request_owed()  # once is all
    assert len(cycles(world)) == 1


def test_a_cycle_that_the_machine_slept_over_is_asked_for_once_when_it_wakes(
    sqlite_database: Database, tmp_path: Path, made: list[BackgroundScheduler]
) -> None:
    world = World(sqlite_database, tmp_path, schedule=Schedule(cron="0 3 * * *", poll_seconds=0.05))
    running = loop(world)
    thread = threading.Thread(target=running.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not (made and running._leads) and time.monotonic() < deadline:
        time.sleep(0.05)
    for job in made[0].get_jobs():  # as after a night and a day asleep
        job.modify(next_run_time=datetime.now(UTC) - timedelta(days=1, hours=2))
    while not cycles(world) and time.monotonic() < deadline:
        time.sleep(0.05)
    world.stopping.set()
    thread.join(timeout=10)
    (only,) = cycles(world)
    assert only.requested_by == "schedule"


def test_what_is_too_old_goes_by_the_loop_that_leads(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, tmp_path)
    world.settings = msgspec.structs.replace(world.settings, capture=Capture(retention_days=30))
    world.users_correct(3)
    world.now += timedelta(days=400)
    leading, standing_by = loop(world), loop(world)
    leading.poll()
    standing_by.expire()
    with world.database.reading() as session:
        assert len(session.exec(select(Inference)).all()) == 3
    leading.expire()
    with world.database.reading() as session:
        assert session.exec(select(Inference)).all() == []
    assert verify(world.database, tmp_path).sound


def test_a_months_failing_kinds_are_found_once_by_the_loop_that_leads(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    world.users_correct(3)
    world.now = datetime(2026, 4, 2, tzinfo=UTC)
    leading, standing_by = loop(world), loop(world)
    leading.poll()
    standing_by.poll()

    def found() -> list[MonthlyFinding]:
        with world.database.reading() as session:
            return list(session.exec(select(MonthlyFinding)))

    standing_by.find_kinds()
    assert found() == []
    leading.find_kinds()
    (first,) = found()
    assert (first.model, first.month) == (MODEL, "2026-03") and "3 of 3 prompts failed" in first.told
    leading.find_kinds()
    world.now += timedelta(minutes=1)  # the lease of who led has run out: a restart
    again = loop(world)
    again.poll()
    again.find_kinds()
    assert found() == [first]


def test_outside_the_training_window_a_cycle_waits_and_says_so_and_in_it_goes_its_way(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path, training=Training(window="02:00-05:00"))
    world.users_correct(60)
    world.people_confirm()
    world.request()
    leading = loop(world)
    assert not leading.poll()  # it is midnight
    waiting = cycles(world)[0]
    assert (waiting.state, waiting.step) == ("queued", None)
    assert waiting.reason is not None
    assert waiting.reason.startswith("waits for the training window (02:00-05:00 UTC, opens 01 Mar 02:00)")
    world.now = world.now.replace(hour=2)
    assert leading.poll()
    assert (cycles(world)[0].state, world.trainings) == ("done", 1)
    assert "window" not in (cycles(world)[0].reason or "")


def test_a_cycle_that_comes_to_its_training_too_late_is_left_there_until_the_window_opens_again(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path, training=Training(window="02:00-05:00"))
    world.users_correct(60)
    world.people_confirm()
    record = world.record(world.request())
    for name, step in list(STEPS.items())[:2]:
        record.begin(name)
        step(world.workshop(), record)
    record.begin("train")
    world.now = world.now.replace(hour=5)
    left = run_cycle(world.workshop(), record)
    assert (left.state, left.step, world.trainings) == ("running", "train", 0)
    assert "opens 02 Mar 02:00" in (cycles(world)[0].reason or "")
    world.now += timedelta(minutes=1)
    leading = loop(world)
    assert not leading.poll()
    world.now = world.now.replace(day=2, hour=2)
    assert leading.poll()
    assert (cycles(world)[0].state, world.trainings) == ("done", 1)


def test_outside_the_window_what_needs_no_training_any_more_goes_on_and_what_is_cancelled_ends(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path, training=Training(window="02:00-05:00"))
    world.users_correct(60)
    world.people_confirm()
    record = world.record(world.request())
    for name, step in list(STEPS.items())[:3]:
        world.now = world.now.replace(hour=2)
        record.begin(name)
        step(world.workshop(), record)
    record.begin("evaluate")
    world.now = world.now.replace(hour=12)
    assert loop(world).poll()
    assert cycles(world)[0].state == "done"

    world.record(world.request()).begin("train")
    with world.database.session() as session:
        cancel_cycle(session, cycles(world)[1].id, world.clock())
        session.commit()
    world.now += timedelta(minutes=1)
    assert loop(world).poll()
    assert cycles(world)[1].state == "cancelled"
