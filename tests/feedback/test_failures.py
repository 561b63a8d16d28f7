"""Failure cases in the record."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from feedback.datasets.failures import list_failures, resolve_failure, triage_model
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.storage.database import Database
from feedback.storage.inferences import InferenceFilter, search
from feedback.storage.tables import Failure
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, World, settings_for


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, settings_for(tmp_path))


def triage(world: World) -> int:
    with world.database.session() as session:
        found = triage_model(session, "assistant", world.settings, NOW + timedelta(hours=1))
        session.commit()
    return found


def failures(world: World) -> dict[str, Failure]:
    with world.database.reading() as session:
        return {row.inference_id: row for row in list_failures(session, "assistant", None, 1000, None).items}


def resolve(world: World, failure: Failure, action: str, correction: str | None = None) -> Failure:
    with world.database.session() as session:
        row = resolve_failure(session, failure.id, action, correction, "rob", world.settings, NOW)  # type: ignore[arg-type]
        session.commit()
        return row


def test_a_low_rating_without_a_correction_waits_in_quarantine(world: World) -> None:
    bad = world.ask("where is it")
    world.say(bad, 1)
    good = world.ask("thanks", RIGHT)
    world.say(good, 5)
    assert triage(world.write()) == 1
    (row,) = failures(world).values()
    assert (row.inference_id, row.state, row.correction) == (bad, "quarantine", None)
    assert [reason["reason"] for reason in row.reasons] == ["low_rating"]


def test_stars_for_another_choice_say_nothing_about_the_answer_that_is_kept(world: World) -> None:
    world.say(world.ask("x", RIGHT), 1, choice=1)
    assert triage(world.write()) == 0


def test_answers_out_of_form_are_found_without_any_rating(world: World) -> None:
    ids = {
        world.ask("a", ""): "empty",
        world.ask("b", None): "empty",
        world.ask("c", " \n\t"): "empty",
        world.ask("d", "sorry"): "schema_invalid",
        world.ask("e", '{"intent": "re', finish_reason="length"): "truncated",
    }
    world.ask("f", RIGHT)
    assert triage(world.write()) == 5
    assert {key: row.reasons[0]["reason"] for key, row in failures(world).items()} == ids


def test_only_answered_production_traffic_of_the_model_is_looked_at(world: World) -> None:
    for fields in (
        {"purpose": "evaluation"},
        {"purpose": "replay"},
        {"status": 499},
        {"status": 429},
        {"model": "another"},
    ):
        world.say(world.ask("x", "sorry", **fields), 1)
    world.ask("metadata only", None, stored=False)
    assert triage(world.write()) == 0


def test_a_users_correction_in_form_makes_the_case_corrected(world: World) -> None:
    world.correct("one", RIGHT, "ann")
    world.correct("two", "not even JSON", "bob")
    triage(world.write())
    one, two = sorted(failures(world).values(), key=lambda row: row.inference_id)
    assert (one.state, one.correction, one.resolved_by, one.resolved) == ("corrected", RIGHT, "ann", None)
    assert (two.state, two.correction) == ("quarantine", None)


def test_triage_again_finds_nothing_new_and_later_signals_are_added(world: World) -> None:
    bad = world.ask("x")
    world.say(bad, 1)
    assert triage(world.write()) == 1
    assert triage(world) == 0
    world.say(bad, 2, rater="bob")
    world.say(bad, None, RIGHT, rater="eve")
    assert triage(world.write()) == 1
    (row,) = failures(world).values()
    assert row.state == "corrected" and [one["reason"] for one in row.reasons] == ["low_rating", "edited"]


def test_a_complaint_taken_back_closes_the_case_and_a_new_one_opens_it_again(world: World) -> None:
    asked = world.ask("x", RIGHT)
    world.say(asked, 1)
    triage(world.write())
    world.say(asked, 5)
    assert triage(world.write()) == 1
    assert failures(world)[asked].state == "dismissed"
    world.say(asked, 1)
    assert triage(world.write()) == 1
    assert failures(world)[asked].state == "quarantine"


@pytest.mark.parametrize(
    ("action", "correction", "state"),
    [("correct", OTHER, "corrected"), ("accept", None, "accepted"), ("dismiss", None, "dismissed")],
)
def test_what_a_person_resolved_stays(world: World, action: str, correction: str | None, state: str) -> None:
    asked = world.correct("x", RIGHT)
    triage(world.write())
    resolve(world, failures(world)[asked], action, correction)
    world.say(asked, 1, WRONG, rater="eve")
    assert triage(world.write()) == 0
    row = failures(world)[asked]
    assert (row.state, row.correction, row.resolved_by) == (state, correction, "rob")
    world.ask("x", RIGHT)  # by the same user
    assert triage(world.write()) == 1
    row = failures(world)[asked]
    assert (row.state, row.correction, row.resolved_by) == (state, correction, "rob")
    assert [one["reason"] for one in row.reasons] == ["low_rating", "edited", "asked_again"]


def test_a_resolved_case_is_not_resolved_otherwise(world: World) -> None:
    world.say(world.ask("x"), 1)
    triage(world.write())
    (row,) = failures(world).values()
    resolve(world, row, "correct", RIGHT)
    resolve(world, row, "correct", RIGHT)  # a click too many
    with pytest.raises(ConflictError, match="corrected already, by rob"):
        resolve(world, row, "dismiss")


def test_a_correction_belongs_to_correcting_and_to_nothing_else(world: World) -> None:
    world.say(world.ask("x"), 1)
    triage(world.write())
    (row,) = failures(world).values()
    for correction in (None, "", "  "):
        with pytest.raises(BadFieldError, match="is required"):
            resolve(world, row, "correct", correction)
    with pytest.raises(BadFieldError, match="does not go with"):
        resolve(world, row, "accept", RIGHT)
    with pytest.raises(BadFieldError, match="correction"):
        resolve(world, row, "correct", "no JSON, which the contract wants")
    with world.database.session() as session, pytest.raises(NotFoundError):
        resolve_failure(session, "nothing", "accept", None, "rob", world.settings, NOW)


def test_failures_are_listed_by_state_in_pages_and_found_by_reason(world: World) -> None:
    for n in range(3):
        world.say(world.ask(f"x {n}"), 1)
    world.ask("y", "sorry")
    triage(world.write())
    with world.database.reading() as session:
        first = list_failures(session, None, "quarantine", 3, None)
        rest = list_failures(session, None, "quarantine", 3, first.next_cursor)
        assert len(first.items) == 3 and len(rest.items) == 1 and rest.next_cursor is None
        found = search(session, InferenceFilter(reason="schema_invalid"), 10, None).items
        assert [row.prompt for row in found] == ["y"]


def test_the_number_of_queries_does_not_grow_with_the_number_of_inferences(world: World) -> None:
    statements: list[str] = []
    event.listen(
        world.database.engine, "before_cursor_execute", lambda *args: statements.append(str(args[2]))
    )
    counts = []
    for _ in range(3):
        for n in range(150):
            world.ask(f"fine {n}", RIGHT)
            world.say(world.ask(f"bad {n}"), 1)
        world.write()
        statements.clear()
        triage(world)
        counts.append(len(statements))
    assert counts[2] <= counts[1] < 25
