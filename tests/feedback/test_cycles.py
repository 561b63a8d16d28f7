"""Cycles are asked for one at a time for each model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.registry.cycles import cancel_cycle, get_cycle, list_cycles, request_cycle
from feedback.registry.models import ensure_models
from feedback.settings import Model, Settings
from feedback.storage.database import Database
from feedback.storage.tables import Cycle

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = Settings(model=[Model(name="assistant"), Model(name="other")])


@pytest.fixture
def ready(database: Database) -> Database:
    with database.session() as session:
        ensure_models(session, SETTINGS, NOW)
        session.commit()
    return database


def request(database: Database, model: str = "assistant", guards_off: tuple[str, ...] = ()) -> Cycle:
    with database.session() as session:
        cycle = request_cycle(session, model, "auto", guards_off, "ann", NOW)
        session.commit()
        return cycle


def set_state(database: Database, identifier: str, state: str) -> None:
    with database.session() as session:
        get_cycle(session, identifier).state = state
        session.commit()


def test_a_cycle_waits_to_be_taken_up(ready: Database) -> None:
    cycle = request(ready, guards_off=("raters",))
    assert (cycle.state, cycle.mode, cycle.guards_off, cycle.requested_by) == (
        "queued",
        "auto",
        ["raters"],
        "ann",
    )


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_second_cycle_of_the_model_is_refused_and_another_models_is_not(
    ready: Database, state: str
) -> None:
    first = request(ready)
    set_state(ready, first.id, state)
    with pytest.raises(ConflictError, match=f"{first.id}.* is {state}"):
        request(ready)
    request(ready, "other")


def test_of_many_requests_at_once_one_is_taken(ready: Database) -> None:
    def attempt(_: int) -> bool:
        try:
            request(ready)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1


def test_after_its_end_the_next_may_begin(ready: Database) -> None:
    set_state(ready, request(ready).id, "done")
    request(ready)


def test_a_guard_that_does_not_exist_is_named(ready: Database) -> None:
    with pytest.raises(BadFieldError, match="no guard reviewers; there are raters, replay, size"):
        request(ready, guards_off=("reviewers",))


def test_an_unknown_model_is_refused(ready: Database) -> None:
    with pytest.raises(NotFoundError):
        request(ready, "nobody")


def test_cancelling_ends_a_queued_cycle_and_asks_a_running_one(ready: Database) -> None:
    queued, running = request(ready), request(ready, "other")
    set_state(ready, running.id, "running")
    with ready.session() as session:
        for cycle in (queued, running):
            cancel_cycle(session, cycle.id, NOW)
        session.commit()
    with ready.reading() as session:
        assert get_cycle(session, queued.id).state == "cancelled"
        assert get_cycle(session, running.id).state == "running"
        assert get_cycle(session, running.id).cancel_requested
        assert get_cycle(session, queued.id).cancel_requested, "the loop may be taking it up just now"


def test_what_has_ended_cannot_be_cancelled(ready: Database) -> None:
    cycle = request(ready)
    set_state(ready, cycle.id, "done")
    with ready.session() as session, pytest.raises(ConflictError, match="is done"):
        cancel_cycle(session, cycle.id, NOW)
    with ready.session() as session, pytest.raises(NotFoundError):
        cancel_cycle(session, "nothing", NOW)


def test_cycles_are_listed_newest_first_in_pages(ready: Database) -> None:
    ids = []
    for _ in range(3):
        ids.append(request(ready).id)
        set_state(ready, ids[-1], "done")
    with ready.reading() as session:
        first = list_cycles(session, "assistant", 2, None)
        rest = list_cycles(session, None, 2, first.next_cursor)
    assert {one.id for one in (*first.items, *rest.items)} == set(ids)
    assert len(first.items) == 2 and rest.next_cursor is None
