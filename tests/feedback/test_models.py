"""Champions move by a decision, one at a time, and every move can be taken back in one step (invariant 5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlmodel import select

from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.registry.models import (
    ensure_models,
    get_model,
    list_moves,
    move_champion,
    rollback_target,
)
from feedback.registry.versions import get_version, mark_version, reserve_version
from feedback.settings import Model, Settings
from feedback.storage.database import Database
from feedback.storage.tables import Move, RegisteredModel

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = Settings()


def register(database: Database, *numbers: int) -> None:
    """The model `assistant`, with a registered version for each of the numbers 0, 1, …"""
    with database.session() as session:
        ensure_models(session, SETTINGS, NOW)
        for number in numbers:
            version = reserve_version(
                session, "assistant", f"cycle-{number}", None, "starter", "r", f"hash-{number}", "", {}, NOW
            )
            mark_version(session, "assistant", version.number, "registered")
        session.commit()


def move(database: Database, to: str | None, kind: str = "promotion", seconds: float = 0) -> Move:
    with database.session() as session:
        made = move_champion(
            session,
            "assistant",
            to,
            "rollback" if kind == "rollback" else "promotion",
            "because",
            "ann",
            None,
            NOW + timedelta(seconds=seconds),
        )
        session.commit()
        return made


def champion(database: Database) -> str | None:
    with database.reading() as session:
        return get_model(session, "assistant").champion


def test_models_are_registered_once_whoever_starts(database: Database) -> None:
    def start(_: int) -> None:
        with database.session() as session:
            ensure_models(session, SETTINGS, NOW)
            session.commit()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(8)))
    with database.reading() as session:
        assert [row.name for row in session.exec(select(RegisteredModel))] == ["assistant"]


def test_a_move_is_written_with_its_reason_and_who_decided(database: Database) -> None:
    register(database, 0)
    made = move(database, "1.0")
    with database.reading() as session:
        (kept,) = list_moves(session, "assistant", 10, None).items
        assert (kept.id, kept.from_version, kept.to_version) == (made.id, None, "1.0")
        assert (kept.reason, kept.decided_by, kept.kind) == ("because", "ann", "promotion")
        assert get_version(session, "assistant", "1.0").state == "promoted"


@pytest.mark.parametrize(("reason", "by"), [("", "ann"), ("  ", "ann"), ("good", "")])
def test_a_move_without_a_reason_or_a_name_is_refused(
    sqlite_database: Database, reason: str, by: str
) -> None:
    register(sqlite_database, 0)
    with sqlite_database.session() as session, pytest.raises(BadFieldError):
        move_champion(session, "assistant", "1.0", "promotion", reason, by, None, NOW)
    assert champion(sqlite_database) is None


def test_every_move_is_taken_back_in_one_step(database: Database) -> None:
    register(database, 0, 1)
    before = []
    for step, number in enumerate(["1.0", "1.1"]):
        before.append(champion(database))
        move(database, number, seconds=step)
    with database.reading() as session:
        assert rollback_target(session, "assistant") == "1.0"
    move(database, "1.0", "rollback", seconds=5)
    assert champion(database) == "1.0" == before[1]


def target(database: Database) -> str | None:
    with database.reading() as session:
        return rollback_target(session, "assistant")


def test_rollbacks_in_a_row_go_further_back_until_there_is_nothing_before(database: Database) -> None:
    register(database, 0, 1)
    move(database, "1.0", seconds=3)  # whatever the clocks of those who asked said, this came first
    move(database, "1.1", seconds=2)
    for step, expected in enumerate(["1.0", None]):
        assert target(database) == expected
        move(database, expected, "rollback", seconds=step)
    with pytest.raises(
        ConflictError, match="before assistant@base to roll back to; promote a version by name"
    ):
        target(database)


def test_what_a_rollback_left_is_led_to_again_only_once_it_was_promoted(sqlite_database: Database) -> None:
    register(sqlite_database, 0, 1, 2)
    for number in ("1.0", "1.1"):
        move(sqlite_database, number)
    move(sqlite_database, "1.0", "rollback")
    move(sqlite_database, "1.2")
    assert target(sqlite_database) == "1.0", "1.1 was found to be bad"
    move(sqlite_database, "1.1")
    move(sqlite_database, "1.0")
    assert target(sqlite_database) == "1.1", "somebody promoted it since"
    move(sqlite_database, "1.1", "rollback")
    assert target(sqlite_database) == "1.2", "and 1.0, before it, was left by this rollback"


def test_a_rollback_passes_over_versions_that_cannot_serve_any_more(sqlite_database: Database) -> None:
    register(sqlite_database, 0, 1, 2)
    for number in ("1.0", "1.1", "1.2"):
        move(sqlite_database, number)
    with sqlite_database.session() as session:
        mark_version(session, "assistant", "1.1", "retired")
        session.commit()
    assert target(sqlite_database) == "1.0"


def test_after_a_change_of_base_no_rollback_leads_to_versions_of_the_old_one(
    sqlite_database: Database,
) -> None:
    register(sqlite_database, 0, 1)
    for number in ("1.0", "1.1", None):
        move(sqlite_database, number)
    with sqlite_database.session() as session:
        ensure_models(session, Settings(model=[Model(name="assistant", base="other")]), NOW)
        session.commit()
    with pytest.raises(ConflictError, match="promote a version by name"):
        target(sqlite_database)


def test_the_first_promotion_is_taken_back_to_the_base(database: Database) -> None:
    register(database, 0)
    move(database, "1.0")
    with database.reading() as session:
        assert rollback_target(session, "assistant") is None
    assert move(database, None, "rollback", seconds=1).to_version is None
    assert champion(database) is None


def test_without_a_move_there_is_nothing_to_roll_back(sqlite_database: Database) -> None:
    register(sqlite_database, 0)
    with (
        sqlite_database.reading() as session,
        pytest.raises(ConflictError, match="promote a version by name"),
    ):
        rollback_target(session, "assistant")


def test_a_rollback_decided_on_an_old_view_is_refused(database: Database) -> None:
    register(database, 0, 1, 2)
    move(database, "1.0")
    move(database, "1.1", seconds=1)
    move(database, "1.2", seconds=2)  # while somebody was about to roll back from 1.1 to 1.0
    with pytest.raises(ConflictError, match="moved in the meantime"):
        move(database, "1.0", "rollback", seconds=3)
    assert champion(database) == "1.2"


def test_moving_to_the_champion_again_is_refused_and_writes_nothing(sqlite_database: Database) -> None:
    register(sqlite_database, 0)
    move(sqlite_database, "1.0")
    with pytest.raises(ConflictError, match="champion already"):
        move(sqlite_database, "1.0", seconds=1)
    with sqlite_database.reading() as session:
        assert len(list_moves(session, "assistant", 10, None).items) == 1


def test_a_cycle_that_repeats_its_move_after_a_crash_gets_the_one_it_made(database: Database) -> None:
    register(database, 0)
    made = []
    for second in range(2):
        with database.session() as session:
            later = NOW + timedelta(seconds=second)
            made.append(
                move_champion(session, "assistant", "1.0", "promotion", "won", "gate", "cycle-0", later)
            )
            session.commit()
    assert made[0].id == made[1].id
    with database.reading() as session:
        assert get_model(session, "assistant").moves == 1


def test_unknown_versions_and_models_are_named(sqlite_database: Database) -> None:
    register(sqlite_database, 0)
    with pytest.raises(NotFoundError, match=r"no version '7\.7'"):
        move(sqlite_database, "7.7")
    with (
        sqlite_database.reading() as session,
        pytest.raises(NotFoundError, match="registered are: assistant"),
    ):
        get_model(session, "asistant")


def test_a_version_that_was_never_published_or_is_retired_cannot_become_champion(
    sqlite_database: Database,
) -> None:
    register(sqlite_database, 0)
    with sqlite_database.session() as session:
        reserve_version(session, "assistant", "cycle-9", None, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", "1.0", "retired")
        session.commit()
    for number in ("1.0", "1.1"):
        with pytest.raises(ConflictError, match="cannot serve"):
            move(sqlite_database, number)
    assert champion(sqlite_database) is None


def test_concurrent_moves_lose_none(database: Database) -> None:
    """Every move starts where the one before it ended, and all are counted."""
    register(database, *range(6))
    together = Barrier(6)

    def promote(minor: int) -> str:
        together.wait()
        try:
            return move(database, f"1.{minor}", seconds=minor).id
        except ConflictError:
            return ""

    with ThreadPoolExecutor(6) as pool:
        made = [one for one in pool.map(promote, range(6)) if one]
    with database.reading() as session:
        row = get_model(session, "assistant")
        moves = list(session.exec(select(Move)))
    assert len(made) == len(moves) == row.moves == 6
    starts = {one.from_version: one.to_version for one in moves}
    assert len(starts) == 6, "two moves started from the same champion: one was lost"
    chain: list[str | None] = [None]
    while chain[-1] in starts:
        chain.append(starts[chain[-1]])
    assert chain[-1] == row.champion and len(chain) == 7


def test_a_model_given_another_base_serves_that_base_and_says_so(database: Database) -> None:
    register(database, 0)
    move(database, "1.0")
    moved = Settings(model=[Model(name="assistant", base="acme/other")])
    with database.session() as session:
        ensure_models(session, moved, NOW + timedelta(seconds=1))
        session.commit()
    with database.reading() as session:
        row = get_model(session, "assistant")
        assert (row.base, row.champion) == ("acme/other", None)
        newest = list_moves(session, "assistant", 10, None).items[0]
        assert newest.decided_by == "configuration" and "'starter' to 'acme/other'" in newest.reason
    with pytest.raises(ConflictError, match="trained on the base 'starter'"):
        move(database, "1.0", seconds=2)


def test_moves_are_listed_newest_first_in_pages(sqlite_database: Database) -> None:
    register(sqlite_database, 0, 1, 2)
    for minor in range(3):
        move(sqlite_database, f"1.{minor}", seconds=minor)
    with sqlite_database.reading() as session:
        first = list_moves(session, "assistant", 2, None)
        rest = list_moves(session, "assistant", 2, first.next_cursor)
    assert [one.to_version for one in (*first.items, *rest.items)] == ["1.2", "1.1", "1.0"]
    assert rest.next_cursor is None
