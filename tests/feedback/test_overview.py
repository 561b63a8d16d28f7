"""The overview: what the last days were like, and what waits for a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from feedback.datasets.failures import triage_model
from feedback.errors import NotFoundError
from feedback.ids import new_id
from feedback.registry.models import get_model, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.reports.overview import Overview, Span, awaiting, look_over
from feedback.reports.plots import line
from feedback.reports.zones import name_of, offsets, zone_named
from feedback.settings import Engine
from feedback.storage.database import Database
from feedback.storage.tables import Candidate, Case, Cycle, RaterHold
from tests.feedback.world import NOW, RIGHT, World, settings_for

LATER = NOW + timedelta(days=3)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, settings_for(tmp_path))


def look(world: World, days: int = 7, now: Any = LATER) -> Overview:
    with world.database.reading() as session:
        return look_over(session, Span(world.settings, "assistant", days, now))


def test_every_day_to_today_is_there_with_its_interval(world: World) -> None:
    for user, stars in (("ann", 1), ("bob", 3), ("cleo", 5)):
        world.say(world.ask(f"a question of {user}", user=user), stars, rater=user)
    found = look(world.write())
    assert [day.day for day in found.days] == [f"{NOW + timedelta(days=n):%Y-%m-%d}" for n in range(4)]
    first, *rest = found.days
    assert (first.answers, first.ratings, first.raters, first.mean) == (3, 3, 3, pytest.approx(3.0))
    assert first.interval == (1.0, 5.0) and found.stars.interval == first.interval
    assert all((day.answers, day.mean, day.interval) == (0, None, None) for day in rest)
    assert (found.stars.rated_share, found.before.ratings) == (1.0, 0)


def test_what_came_before_is_told_beside_it(world: World) -> None:
    for user in ("ann", "bob"):
        world.say(world.ask("early", user=user), 2, rater=user)
    found = look(world.write(), now=NOW + timedelta(days=9))
    assert (found.stars.ratings, found.days) == (0, [])
    assert (found.before.ratings, found.before.mean) == (2, 2.0)


def test_moves_of_the_champion_stand_on_their_days(world: World) -> None:
    world.say(world.ask("a question"), 4)
    world.write()
    with world.database.session() as session:
        row = reserve_version(session, "assistant", None, None, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", row.number, "registered")
        moment = NOW + timedelta(days=2)
        move_champion(session, "assistant", row.number, "promotion", "better", "gate", None, moment)
        session.commit()
    (mark,) = look(world).marks
    assert (mark.day, mark.version, mark.kind) == (2, row.number, "promotion")


def test_days_are_the_readers_also_where_their_clocks_are_changed(world: World) -> None:
    """In Berlin it is the 28th to midnight at 23:00 UTC, and from the 29th at 01:00 UTC on, clocks are two hours ahead."""
    moments = ("2026-03-28T22:59:59", "2026-03-28T23:00:00", "2026-03-29T21:59:59", "2026-03-29T22:00:00")
    for number, text in enumerate(moments):
        moment = datetime.fromisoformat(f"{text}+00:00")
        asked = world.ask(f"{number}", id=new_id(moment), created=moment.timestamp())
        world.say(asked, 1 + number)
    world.write()
    with world.database.session() as session:
        row = reserve_version(session, "assistant", None, None, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", row.number, "registered")
        moved = datetime(2026, 3, 29, 22, tzinfo=UTC)
        move_champion(session, "assistant", row.number, "promotion", "better", "gate", None, moved)
        session.commit()
    now = datetime(2026, 3, 30, 21, 59, tzinfo=UTC)
    with world.database.reading() as session:
        found = look_over(session, Span(world.settings, "assistant", 7, now, "Europe/Berlin"))
        plain = look_over(session, Span(world.settings, "assistant", 7, now))
    told = [(day.day, day.answers, day.mean) for day in found.days]
    assert told == [("2026-03-28", 1, 1.0), ("2026-03-29", 2, 2.5), ("2026-03-30", 1, 4.0)]
    assert (found.zone, found.since, found.marks[0].day) == ("Europe/Berlin", "2026-03-24", 2)
    assert [(day.day, day.answers) for day in plain.days] == [
        ("2026-03-28", 2),
        ("2026-03-29", 2),
        ("2026-03-30", 0),
    ]
    assert (plain.zone, plain.marks[0].day) == ("UTC", 1)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Nowhere/Land",
        "Europe",
        "/etc/passwd",
        "../../etc/passwd",
        "Europe/../UTC",
        "a" * 500,
        "<b>",
        "Etc/Unknown",
    ],
)
def test_a_zone_that_is_none_is_utc(name: str) -> None:
    assert name_of(zone_named(name)) == "UTC"


def test_the_offsets_of_a_zone_change_to_the_second() -> None:
    zone = zone_named("America/New_York")
    since, until = (datetime(year, 7, 1, tzinfo=UTC).timestamp() for year in (2025, 2026))
    found = offsets(zone, since, until)
    assert [one.seconds for one in found] == [-4 * 3600, -5 * 3600, -4 * 3600]
    assert [datetime.fromtimestamp(one.until, UTC).isoformat() for one in found] == [
        "2025-11-02T06:00:00+00:00",
        "2026-03-08T07:00:00+00:00",
        "2026-07-01T00:00:00+00:00",
    ]
    assert offsets(zone_named("UTC"), since, until) == [(until, 0)]


def test_failing_answers_and_their_form_are_told_once_triage_has_looked(world: World) -> None:
    for number in range(3):
        world.say(world.ask(f"question {number}", "not JSON" if number else RIGHT), 1)
    world.write()
    assert (look(world).looked_until, look(world).valid_format) == (None, None)
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW + timedelta(hours=1))
        session.commit()
    found = look(world)
    assert found.reasons["low_rating"] == 3 and found.reasons["schema_invalid"] == 2
    assert found.groups and found.groups[0].examples


def test_costs_are_those_since_the_model_is_known_and_none_without_prices(world: World) -> None:
    world.ask("one")
    world.write()
    with world.database.session() as session:
        get_model(session, "assistant").created = (LATER - timedelta(days=1)).timestamp()
        session.commit()
    plain = look(world).costs
    assert plain is not None and (plain.total, plain.per_thousand_answers) == (None, None)
    world.settings = replace(world.settings, engine=[Engine(price_per_hour=2.0)])
    costs = look(world).costs
    assert costs is not None and (costs.serving, costs.training) == (pytest.approx(2 * 24), None)
    assert costs.per_thousand_answers == pytest.approx(48_000)


def test_an_unknown_model_is_told(world: World) -> None:
    with world.database.reading() as session, pytest.raises(NotFoundError):
        look_over(session, Span(world.settings, "nobody", 7, LATER))


def test_what_waits_for_a_person_is_counted(world: World) -> None:
    with world.database.reading() as session:
        assert awaiting(session, "assistant").nothing
    world.say(world.ask("a question"), 1)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        version = reserve_version(session, "assistant", None, None, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", version.number, "registered")
        plain: dict[str, Any] = {"model": "assistant", "created": 0.0}
        ended: dict[str, Any] = {"mode": "propose", "requested_by": "ann", "updated": 0.0, "state": "done"}
        cycles = [
            Cycle(id=new_id(NOW), decision="proposed", version=number, reason="it waits", **plain, **ended)
            for number in (version.number, "9.9")
        ]
        asked: dict[str, Any] = {"origin": "t", "request_hash": "0", "answer": "x", "checks": []}
        session.add_all(cycles)
        session.add(
            Candidate(
                id=new_id(NOW), inference_id=new_id(NOW), source="teacher", state="checked", **plain, **asked
            )
        )
        session.add(RaterHold(id=new_id(NOW), kind="group", target="g", feedback=[], reason="", **plain))
        case: dict[str, Any] = {"suite": "golden", "prompt_hash": "0", "group_key": "0", "messages": []}
        session.add(Case(id=new_id(NOW), **plain, **case))
        session.commit()
    with world.database.reading() as session:
        found = awaiting(session, "assistant")
        assert (found.failures, found.candidates, found.holds, found.cases) == (1, 1, 1, 1)
        assert found.proposed == [(cycles[0].id, version.number, "it waits")] and not found.nothing
        assert awaiting(session, "other").nothing


def test_bands_and_marks_are_drawn_where_they_belong_and_their_names_are_text() -> None:
    drawn = line("T", ["a", "b"], [2.0, None], 1, 5, [(1.0, 3.0), None], [(1, "<b>")])
    root = ElementTree.fromstring(drawn)
    (band,) = root.findall("rect")
    (dot,) = root.findall("circle")
    assert abs(float(band.attrib["x"]) + 4 - float(dot.attrib["cx"])) < 0.11
    assert float(band.attrib["y"]) < float(dot.attrib["cy"])
    assert float(band.attrib["y"]) + float(band.attrib["height"]) > float(dot.attrib["cy"])
    assert [text.text for text in root.findall("text") if text.text == "<b>"] == ["<b>"]
    assert len([one for one in root.findall("line") if one.attrib["class"] == "moved"]) == 1
