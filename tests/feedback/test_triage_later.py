"""Triage reads on: what came since, and what new signals say about answers that it has looked at before."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from sqlmodel import col, select

from feedback.datasets import traffic
from feedback.datasets.failures import list_failures, triage_in_steps, triage_model
from feedback.settings import Settings
from feedback.storage import arrivals
from feedback.storage.arrival_tables import Arrival, TriageMark
from feedback.storage.arrivals import Span, arrived_since, forget_arrivals
from feedback.storage.database import Database
from feedback.storage.inferences import InferenceFilter, search
from feedback.storage.tables import Failure
from tests.feedback.world import NOW, OTHER, RIGHT, World, settings_for


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(arrivals, "OVERLAP_SECONDS", 0.0)  # so that what was looked at shows as such
    return World(database, settings_for(tmp_path))


def triage(world: World, settings: Settings | None = None) -> int:
    return triage_in_steps(world.database, "assistant", settings or world.settings, NOW + timedelta(hours=1))


def found(world: World) -> dict[str, list[str]]:
    """Names of the reasons, by inference."""
    with world.database.reading() as session:
        rows = list_failures(session, "assistant", None, 1000, None).items
    return {row.inference_id: [one["reason"] for one in row.reasons] for row in rows}


def rows_read(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many inferences a triage looks at, window by window."""
    counts: list[int] = []
    window = traffic.Traffic.window

    def counted(self: traffic.Traffic, *arguments: object) -> traffic.Window:
        made = window(self, *arguments)  # type: ignore[arg-type]
        counts.append(len(made.rows))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(traffic.Traffic, "window", counted)
        triage(world)
    return counts


def test_only_what_came_since_is_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(20):
        world.ask(f"first {n}", RIGHT)
    world.write()
    assert rows_read(world, monkeypatch) == [20]
    assert rows_read(world, monkeypatch) == []
    bad = world.ask("second", "sorry")
    world.write()
    assert rows_read(world, monkeypatch) == [1]
    assert found(world) == {bad: ["schema_invalid"]}


def test_an_answer_that_came_late_is_looked_at_though_its_id_is_old(world: World) -> None:
    late = world.ask("asked first, stored last", "sorry")
    waiting, world._waiting = world._waiting, []
    world.ask("asked second", RIGHT)
    triage(world.write())
    world._waiting = waiting
    assert triage(world.write()) == 1
    assert list(found(world)) == [late]


def test_a_question_that_is_asked_again_later_makes_a_case_of_the_first_answer(world: World) -> None:
    first = world.ask("where is my parcel number 12?", OTHER)
    assert triage(world.write()) == 0
    world.ask("where is my parcel, number 12?", RIGHT)
    assert triage(world.write()) == 1
    assert found(world) == {first: ["asked_again"]}
    assert triage(world) == 0


def test_a_complaint_in_the_same_conversation_makes_a_case_of_the_answer_before(world: World) -> None:
    first = world.ask("where is my parcel?", OTHER, user=None, conversation="c1")
    other = world.ask("is it open on Sunday?", OTHER, user=None, conversation="c2")
    triage(world.write())
    world.ask("No, that's wrong. It was about a parcel!", RIGHT, user=None, conversation="c1")
    assert triage(world.write()) == 1
    assert found(world) == {first: ["negative_follow_up"]}
    assert other not in found(world)


def test_a_sign_stays_when_something_else_is_said_and_goes_when_the_answer_is_praised(world: World) -> None:
    first = world.ask("where is my parcel number 12?", OTHER)
    world.ask("where is my parcel, number 12?", RIGHT)
    triage(world.write())
    world.say(first, 1)
    assert triage(world.write()) == 1
    assert found(world) == {first: ["low_rating", "asked_again"]}
    world.say(first, 5)
    assert triage(world.write()) == 1
    assert found(world) == {first: []}


def test_slow_and_broken_answers_are_listed_for_operators_and_wait_in_no_quarantine(world: World) -> None:
    for n in range(60):
        world.ask(f"usual {n}", RIGHT, user=f"user {n}", latency_ms=200.0 + n, completion_tokens=12)
    slow = world.ask("slow", RIGHT, latency_ms=9000.0, completion_tokens=12)
    broken = world.ask("broken", None, status=502, error="the engine went away")
    both = world.ask("slow and bad", "sorry", latency_ms=9000.0, completion_tokens=12)
    assert triage(world.write()) == 3
    assert found(world) == {slow: ["slow"], broken: ["error"], both: ["slow", "schema_invalid"]}
    with world.database.reading() as session:
        states = {row.inference_id: row.state for row in session.exec(select(Failure))}
    assert states == {slow: "operations", broken: "operations", both: "quarantine"}
    world.say(slow, 5)
    assert triage(world.write()) == 0  # and slow it stays, whatever is usual by now


def test_other_rules_look_at_everything_again_and_what_no_longer_counts_is_closed(world: World) -> None:
    bad = world.ask("x", RIGHT)
    world.say(bad, 2)
    assert triage(world.write()) == 1
    stricter = msgspec.structs.replace(
        world.settings, triage=msgspec.structs.replace(world.settings.triage, off=["low_rating"])
    )
    assert triage(world, stricter) == 1
    assert found(world) == {bad: []}
    assert triage(world) == 1
    assert found(world) == {bad: ["low_rating"]}


def test_a_triage_that_was_cut_short_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_ROWS", 3)
    for n in range(8):
        world.ask(f"{n}", "sorry", user=f"user {n}")
    world.write()
    with monkeypatch.context() as patch:
        patch.setattr("feedback.datasets.failures.forget_arrivals", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            triage(world)
    assert len(found(world)) == 8
    assert rows_read(world, monkeypatch) == [3, 3, 2]
    assert rows_read(world, monkeypatch) == []


def test_in_one_transaction_or_in_steps_the_same_is_found(world: World) -> None:
    for n in range(6):
        world.ask("where is my parcel?", "sorry" if n % 2 else RIGHT, user=f"user {n // 2}")
    world.write()
    with world.database.session() as session:
        at_once = triage_model(session, "assistant", world.settings, NOW)
        kept = {row.inference_id: row.reasons for row in list_failures(session, None, None, 100, None).items}
        session.rollback()
    assert triage(world) == at_once == 6
    with world.database.reading() as session:
        rows = list_failures(session, None, None, 100, None).items
        assert {row.inference_id: row.reasons for row in rows} == kept


def test_cases_are_found_by_reason(world: World) -> None:
    empty = world.ask("x", "")
    world.ask("y", "sorry", user="bob")
    triage(world.write())
    with world.database.reading() as session:
        assert [row.inference_id for row in list_failures(session, None, None, 9, None, "empty").items] == [
            empty
        ]
        assert [row.id for row in search(session, InferenceFilter(reason="empty"), 9, None).items] == [empty]
        assert list_failures(session, "assistant", "quarantine", 9, None, "refusal").items == []


def test_lines_of_arrivals_tell_what_came_since_and_old_ones_go(world: World) -> None:
    first = world.ask("a", RIGHT)
    world.write()
    last = world.ask("b", RIGHT)
    said = world.say(last, 1)
    world.write()
    with world.database.session() as session:
        lines = session.exec(select(Arrival.stored).order_by(col(Arrival.id))).all()
        since = arrived_since(session, lines[0])
        assert (since.inferences, since.feedback) == ([Span(last, last)], [Span(said, said)])
        assert since.stored == lines[1]
        for long_ago in (None, lines[0] - 9):
            assert arrived_since(session, long_ago).inferences == [arrivals.EVERYTHING]
        forget_arrivals(session, (lines[0] + lines[1]) / 2 + arrivals.KEPT_DAYS * 86_400)
        assert list(session.exec(select(Arrival.first_inference))) == [last]
        session.rollback()
    triage(world)
    with world.database.reading() as session:
        (mark,) = session.exec(select(TriageMark))
        assert mark.stored == lines[1]
    assert first < last
