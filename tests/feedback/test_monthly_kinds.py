"""Which kinds of input failed in a month: found once after its end, shown by its report, gone with the words it holds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import Session, select

from feedback.access.audit import Actor
from feedback.errors import ConflictError
from feedback.privacy.erasure import erase_user
from feedback.reports.document import Report
from feedback.reports.facts import gather
from feedback.reports.forms import markdown
from feedback.reports.monthly import find_month, kept_month, month_to_find
from feedback.storage.database import Database
from feedback.storage.tables import MonthlyFinding
from tests.feedback.test_kinds import answered
from tests.feedback.world import World, settings_for

MONTH = "2026-03"
AFTER = datetime(2026, 4, 2, tzinfo=UTC)


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    """A month in which questions about the garden failed, and voice calls did."""
    return answered(World(sqlite_database, settings_for(tmp_path)))


def find(world: World, now: datetime = AFTER) -> MonthlyFinding | None:
    return find_month(world.database, world.settings, "assistant", now)


def report(world: World) -> Report:
    with world.database.reading() as session:
        return gather(session, world.settings, "assistant", MONTH, AFTER)


def test_a_month_is_looked_at_a_day_after_its_end() -> None:
    moments = [datetime(2026, 4, 1, 23, tzinfo=UTC), AFTER, datetime(2026, 4, 30, tzinfo=UTC)]
    assert [month_to_find(now) for now in moments] == ["2026-02", MONTH, MONTH]
    assert month_to_find(datetime(2026, 1, 2, tzinfo=UTC)) == "2025-12"


def test_it_is_found_once_and_the_months_report_shows_it(world: World) -> None:
    assert find(world, datetime(2026, 4, 1, 12, tzinfo=UTC)) is None
    before = report(world)
    found = find(world)
    assert found is not None and find(world) is None
    assert (
        found.told.startswith("In 2026-03, ")
        and '"my garden" (' in found.told
        and "channel=voice" in found.told
    )
    shown = report(world)
    assert (before.kinds_found, shown.kinds_found) == (None, AFTER.isoformat())
    assert shown.kinds == before.kinds and shown.groups == before.groups
    assert f"found after the month, {AFTER:%Y}" in markdown(shown)


def test_what_was_said_later_does_not_change_what_was_found(world: World) -> None:
    find(world)
    for number in range(40):
        world.say(
            world.ask(f"a holiday number {number}, please", user=f"late {number}"), 1, rater=f"late {number}"
        )
    world.write()
    assert report(world).kinds == kept(world)


def kept(world: World) -> list[object]:
    with world.database.reading() as session:
        found = kept_month(session, "assistant", MONTH)
    assert found is not None
    return list(found.found.items)


def test_of_a_month_without_a_request_nothing_is_kept(sqlite_database: Database, tmp_path: Path) -> None:
    assert find(World(sqlite_database, settings_for(tmp_path))) is None


def test_failures_that_no_cycle_has_looked_for_are_looked_for_first(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, settings_for(tmp_path))
    for number in range(30):
        world.ask(f"about my garden {number}", "sorry", user=f"user {number}")
        world.ask(f"about my lamp {number}", '{"intent": "refund", "urgency": "low"}', user=f"user {number}")
    world.write()
    found = find(world)
    assert found is not None and "30 of 60 prompts failed" in found.told and "garden" in found.told


def test_a_loop_that_no_longer_leads_keeps_nothing(world: World) -> None:
    def lost(_: Session) -> None:
        raise ConflictError("another leads")

    with pytest.raises(ConflictError):
        find_month(world.database, world.settings, "assistant", AFTER, lost)
    with world.database.reading() as session:
        assert session.exec(select(MonthlyFinding)).all() == []


def test_it_goes_with_an_erasure_and_is_found_again_without_what_went(world: World, tmp_path: Path) -> None:
    for number in range(8):
        world.say(world.ask(f"my zanzibarian {number} lamps", "sorry", user="zoe"), 1, rater="zoe")
    first = find(world.write())
    assert first is not None and "zanzibarian" in str(first.found)
    erase_user(world.database, world.settings, "zoe", Actor("tester"), lambda: AFTER, patience=1.0)
    with world.database.reading() as session:
        assert session.get(MonthlyFinding, ("assistant", MONTH)) is None
    world.database.close()
    held = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"zanzibarian" not in held
    again = find(world)
    assert again is not None and again.id == first.id and "zanzibarian" not in str(again.found)
