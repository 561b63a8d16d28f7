"""One loop leads, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from feedback.storage.database import Database
from trainer.lease import LeaseLostError, LoopLease, leader


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def confirm(database: Database, lease: LoopLease) -> None:
    with database.session() as session:
        lease.confirm(session)
        session.commit()


def test_of_two_loops_one_leads_and_the_other_waits(database: Database) -> None:
    clock = Clock()
    first, second = LoopLease(database, 15, clock), LoopLease(database, 15, clock)
    assert first.acquire() and first.acquire()
    assert not second.acquire()
    with database.reading() as session:
        assert leader(session, clock()) == first.holder


def test_a_lease_that_is_not_renewed_can_be_taken_and_its_old_holder_writes_nothing_more(
    database: Database,
) -> None:
    clock = Clock()
    first, second = LoopLease(database, 15, clock), LoopLease(database, 15, clock)
    assert first.acquire()
    clock.pass_seconds(16)
    confirm(database, first)  # late, but nobody took it
    clock.pass_seconds(16)
    assert second.acquire()
    with pytest.raises(LeaseLostError):
        confirm(database, first)
    clock.pass_seconds(16)
    with pytest.raises(LeaseLostError):
        confirm(database, first)  # over, but never ours again without asking
    assert first.acquire()


def test_confirming_renews(database: Database) -> None:
    clock = Clock()
    first, second = LoopLease(database, 15, clock), LoopLease(database, 15, clock)
    first.acquire()
    for _ in range(5):
        clock.pass_seconds(10)
        confirm(database, first)
    assert not second.acquire()


def test_a_released_lease_is_free_at_once(database: Database) -> None:
    clock = Clock()
    first, second = LoopLease(database, 15, clock), LoopLease(database, 15, clock)
    first.acquire()
    second.release()
    assert not second.acquire()
    first.release()
    assert second.acquire()


def test_who_is_gone_since_before_the_clock_was_set_back_keeps_nobody_waiting(database: Database) -> None:
    clock = Clock()
    first, second = LoopLease(database, 15, clock), LoopLease(database, 15, clock)
    assert first.acquire()
    clock.pass_seconds(-86_400)
    with database.reading() as session:
        assert leader(session, clock()) is None
    assert second.acquire()
    with pytest.raises(LeaseLostError):
        confirm(database, first)


def test_who_leads_when_the_clock_is_set_back_leads_on(database: Database) -> None:
    clock = Clock()
    first, second = LoopLease(database, 15, clock), LoopLease(database, 15, clock)
    assert first.acquire()
    clock.pass_seconds(-86_400)
    confirm(database, first)
    assert not second.acquire()
    clock.pass_seconds(16)
    assert second.acquire()
