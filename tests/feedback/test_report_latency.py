"""How fast a month's answers came: day by day, and beside the month before."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from feedback.ids import new_id
from feedback.reports.document import Report
from feedback.reports.facts import gather
from feedback.reports.forms import html, markdown
from feedback.storage.database import Database
from tests.feedback.world import NOW, World, settings_for


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, settings_for(tmp_path))


def _report(world: World) -> Report:
    with world.database.reading() as session:
        return gather(session, world.settings, "assistant", f"{NOW:%Y-%m}", NOW + timedelta(days=3))


def test_latency_is_drawn_by_day_and_told_beside_the_month_before(world: World) -> None:
    before = NOW.replace(day=1) - timedelta(days=10)
    for ms in range(1, 21):
        world.ask("earlier", id=new_id(before), created=before.timestamp(), latency_ms=float(100 * ms))
        world.ask("now", latency_ms=float(ms))
    world.ask("broken", None, status=502, error="down", latency_ms=9999.0)
    found = _report(world.write())
    (today, *later) = found.days
    assert (today.day, today.answers, today.p95_ms) == (f"{NOW:%Y-%m-%d}", 20, 19.0)
    assert [day.p95_ms for day in later] == [None] * len(later)
    assert (found.before.p50_ms, found.before.p95_ms) == (1000.0, 1900.0)
    told = "Half of the answers came within 10 ms, 95 % within 19 ms; in the month before within 1,000 ms and 1,900 ms"
    assert told in html(found) and told in markdown(found)
    latency, costs = html(found).split("<h2>")[5:7]
    assert latency.startswith("Is latency") and f"<title>{NOW:%Y-%m-%d}: 19</title>" in latency
    assert costs.startswith("Are costs") and f"<title>{NOW:%Y-%m-%d}: 20</title>" in costs


def test_without_a_month_before_nothing_is_said_of_it(world: World) -> None:
    world.ask("now", latency_ms=5.0)
    told = html(_report(world.write()))
    assert "95 % within 5 ms." in told and "month before" not in told
