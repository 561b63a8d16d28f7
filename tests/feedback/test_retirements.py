"""Who has to have let go of a version before its files go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import Session

from feedback.access.audit import Actor
from feedback.errors import ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.registry.models import MoveKind, ensure_models, get_model, move_champion
from feedback.registry.retirements import (
    Progress,
    begin_retirement,
    expendable_versions,
    finish_retirement,
    forget_worker,
    live_workers,
    open_retirements,
    progress_of,
    report_worker,
    require_room,
    routable,
    waits_for,
)
from feedback.registry.versions import get_version, mark_version, reject_version, reserve_version
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, Inference, Retirement

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def register(session: Session, *states: str) -> None:
    """Versions 1.0, 1.1 … of `assistant`, each in a state."""
    ensure_models(session, Settings(), NOW)
    for number, state in enumerate(states):
        version = reserve_version(session, "assistant", f"{number}", None, "starter", "r", "h", "", {}, NOW)
        for one in dict.fromkeys(("registered", state)):
            if state != "staged":
                mark_version(session, "assistant", version.number, one)  # type: ignore[arg-type]


def retire(session: Session, number: str) -> Retirement:
    return begin_retirement(session, "assistant", number, "old", Actor("ann"), NOW)


def test_a_retirement_is_open_until_its_files_are_gone(database: Database) -> None:
    with database.session() as session:
        register(session, "registered", "rejected")
        first, again = retire(session, "1.0"), retire(session, "1.0")
        assert first.id == again.id
        assert get_version(session, "assistant", "1.0").state == "retired"
        assert [row.number for row in open_retirements(session)] == ["1.0"]
        finish_retirement(session, first.id, NOW)
        finish_retirement(session, first.id, NOW + timedelta(days=1))
        session.commit()
        assert open_retirements(session) == []
        assert retire(session, "1.0").finished == NOW.timestamp()


def test_champion_and_previous_champion_are_refused_until_the_champion_moves_on(
    sqlite_database: Database,
) -> None:
    with sqlite_database.session() as session:
        register(session, "registered", "registered", "registered")
        for number in ("1.0", "1.1"):
            move_champion(session, "assistant", number, "promotion", "why", "ann", None, NOW)
        for number in ("1.0", "1.1"):
            with pytest.raises(ConflictError):
                retire(session, number)
        move_champion(session, "assistant", "1.2", "promotion", "why", "ann", None, NOW)
        retire(session, "1.0")
        with pytest.raises(ConflictError, match="retired and cannot serve"):
            move_champion(session, "assistant", "1.0", "promotion", "why", "ann", None, NOW)


def test_the_version_that_a_rollback_leads_to_is_kept_and_what_it_left_may_go(
    sqlite_database: Database,
) -> None:
    with sqlite_database.session() as session:
        register(session, "registered", "registered", "registered")
        for number in ("1.0", "1.1", "1.2"):
            move_champion(session, "assistant", number, "promotion", "why", "ann", None, NOW)
        move_champion(session, "assistant", "1.1", "rollback", "why", "ann", None, NOW)
        with pytest.raises(ConflictError, match="a rollback leads to it"):
            retire(session, "1.0")
        retire(session, "1.2")
        assert get_version(session, "assistant", "1.2").state == "retired"


def test_what_is_unknown_or_still_being_published_is_refused(sqlite_database: Database) -> None:
    with sqlite_database.session() as session:
        register(session, "staged")
        with pytest.raises(ConflictError, match="being published"):
            retire(session, "1.0")
        with pytest.raises(NotFoundError):
            retire(session, "1.1")
        with pytest.raises(NotFoundError):
            begin_retirement(session, "nobody", "1.0", "old", Actor("ann"), NOW)


def test_workers_tell_how_far_they_are_and_the_silent_ones_are_taken_for_dead(database: Database) -> None:
    with database.session() as session:
        register(session, "registered")
        row = retire(session, "1.0")
        report_worker(session, "b", "here:2", {row.id: Progress("busy")}, NOW)
        report_worker(session, "a", "here:1", {row.id: Progress("left", "the engine is away")}, NOW)
        report_worker(session, "c", "here:3", {}, NOW - timedelta(seconds=20))
        session.commit()
        workers = live_workers(session, NOW)
        assert [worker.place for worker in workers] == ["here:1", "here:2", "here:3"]
        assert progress_of(workers[1], row.id) == Progress("busy")
        assert progress_of(workers[2], row.id) is None
        assert waits_for(session, row, NOW) == (
            "here:1: the engine is away; here:2 has requests under way on it; "
            "here:3 has not heard of it (it was last heard of 20 s ago)"
        )
        report_worker(session, "b", "here:2", {row.id: Progress("unloaded")}, NOW)
        assert [worker.place for worker in live_workers(session, NOW + timedelta(seconds=50))] == [
            *("here:1", "here:2")
        ]
        forget_worker(session, "a")
        forget_worker(session, "never there")
        assert "here:1" not in waits_for(session, row, NOW)


def test_an_engines_memory_is_full_with_the_versions_that_can_be_asked_for(database: Database) -> None:
    with database.session() as session:
        register(session, "registered", "rejected", "retired", "staged", "rejected")
        assert (routable(session, "starter"), routable(session, "acme/other")) == (3, 0)
        require_room(session, "starter", 4)
        with pytest.raises(ConflictError, match="max_cpu_loras is 3"):
            require_room(session, "starter", 3)
        found = expendable_versions(session, "starter", NOW, {})
        assert [one.number for one, what in found if what == "rejected version"] == ["1.1", "1.4"]
        assert expendable_versions(session, "acme/other", NOW, {}) == []


def test_what_was_turned_down_first_goes_first_though_it_was_made_last(database: Database) -> None:
    with database.session() as session:
        register(session, "registered", "registered", "registered")
        for number, hours in (("1.2", 1), ("1.0", 3), ("1.1", 2)):
            reject_version(session, "assistant", number, NOW + timedelta(hours=hours))
        session.commit()
        found = [one for one, _ in expendable_versions(session, "starter", NOW, {})]
        assert [version.number for version in found] == ["1.2", "1.1", "1.0"]
        assert found[0].rejected == (NOW + timedelta(hours=1)).timestamp()
        reject_version(session, "assistant", "1.2", NOW + timedelta(hours=9))  # by whom it is said again
        assert found[0].rejected == (NOW + timedelta(hours=1)).timestamp()
        mark_version(session, "assistant", "1.1", "promoted")
        reject_version(session, "assistant", "1.1", NOW + timedelta(hours=9))
        assert get_version(session, "assistant", "1.1").state == "promoted", "a person's word stands"


def test_where_nothing_was_turned_down_what_was_overtaken_undecided_makes_room(
    database: Database,
) -> None:
    with database.session() as session:
        register(
            session,
            "promoted",
            "registered",
            "promoted",
            "rejected",
            "registered",
            "registered",
            "registered",
        )
        cycle = Cycle(id="c" * 36, model="assistant", mode="auto", requested_by="x", created=0.0, updated=0.0)
        session.add(cycle)
        for number in ("1.1", "1.5", "1.6"):
            get_version(session, "assistant", number).cycle_id = "over"
        get_version(session, "assistant", "1.4").cycle_id = cycle.id
        session.flush()

        def found() -> list[tuple[str, str]]:
            return [(one.number, what) for one, what in expendable_versions(session, "starter", NOW, {})]

        undecided = "version that nobody decided on"
        assert found() == [
            ("1.3", "rejected version"),
            ("1.1", undecided),
            ("1.5", undecided),  # not 1.4, whose cycle goes on, nor 1.6, the newest
        ]
        for number, days in (("1.1", 29), ("1.5", 31)):
            at = NOW - timedelta(days=days)
            row = Inference(id=new_id(at), created=at.timestamp(), model="assistant", version=number)
            row.status, row.latency_ms = 200, 1.0
            session.add(row)
        session.flush()
        assert [number for number, _ in found()] == ["1.3", "1.5"]
        assert expendable_versions(session, "acme/other", NOW, {}) == []


def test_former_champions_make_room_last_and_the_newest_of_them_never(database: Database) -> None:
    with database.session() as session:
        register(session, "registered", "registered", "registered", "registered", "rejected")
        for number in ("1.0", "1.1", "1.2", "1.0", "1.3"):
            move_champion(session, "assistant", number, "promotion", "better", "ann", None, NOW)
        session.flush()

        def found(keep: int) -> list[tuple[str, str]]:
            versions = expendable_versions(session, "starter", NOW, {"assistant": keep, "unheard of": 1})
            return [(one.number, what) for one, what in versions]

        rejected, former = ("1.4", "rejected version"), "former champion"
        # 1.3 is the champion; back from it lie 1.0, 1.2 and 1.1
        assert found(1) == [rejected, ("1.1", former), ("1.2", former)]
        assert found(2) == [rejected, ("1.1", former)]
        assert found(3) == [rejected]
        assert expendable_versions(session, "starter", NOW, {})[1:] == []
        for number, pinned in (("1.1", True), ("1.2", False)):  # as the champion 1.2 was asked for lately too
            asked = Inference(id=new_id(NOW), created=NOW.timestamp(), model="assistant", version=number)
            asked.status, asked.latency_ms, asked.pinned = 200, 1.0, pinned
            session.add(asked)
        session.flush()
        assert found(1) == [rejected, ("1.2", former)]


def test_what_rollbacks_have_left_makes_room_before_what_they_lead_to(database: Database) -> None:
    with database.session() as session:
        register(session, *["registered"] * 5)

        def move(kind: MoveKind, number: str) -> None:
            move_champion(session, "assistant", number, kind, "better", "ann", None, NOW)

        for number in ("1.0", "1.1", "1.2"):
            move("promotion", number)
        for number in ("1.3", "1.4"):
            move("promotion", number)
            move("rollback", "1.2")
        session.flush()
        found = expendable_versions(session, "starter", NOW, {"assistant": 1})
        assert [one.number for one, _ in found] == ["1.3", "1.4", "1.0"]
        model = get_model(session, "assistant")
        model.base = "acme/other"
        session.add(model)
        session.flush()
        assert expendable_versions(session, "starter", NOW, {"assistant": 1}) == [], "they take no room there"
