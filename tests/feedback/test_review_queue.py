"""The queue of review: what comes first, one reviewer a case, and decisions that can be taken back."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from math import log2
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import Session, select

from feedback.datasets.believed import Asked, Belief, belief_apart
from feedback.datasets.candidates import decide_candidate
from feedback.datasets.failures import resolve_failure, triage_model
from feedback.datasets.reopening import reopen_failure
from feedback.datasets.review_case import read_case
from feedback.datasets.review_queue import (
    claim_first,
    count_decided,
    count_held,
    count_waiting,
    queue,
    release,
)
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.storage.database import Database
from feedback.storage.tables import Candidate, Failure
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, World, settings_for

ANN, BOB = "ann:0123456789", "bob:0123456789"


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, settings_for(tmp_path))


def waiting(world: World, prompt: str, user: str = "ann", confidence: float | None = None) -> str:
    """A failure case in quarantine; its id."""
    asked = world.ask(prompt, user=user)
    world.say(asked, 1, rater=user)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        row = session.exec(select(Failure).where(Failure.inference_id == asked)).one()
        if confidence is not None:
            row.reasons = [{**row.reasons[0], "confidence": confidence}]
            session.add(row)
        session.commit()
        return row.id


def propose(
    world: World, failure_id: str, answer: str = RIGHT, passed: bool = True, source: str = "teacher"
) -> str:
    """A candidate for a case, a teacher's unless it says otherwise; its id."""
    with world.database.session() as session:
        inference_id = session.get_one(Failure, failure_id).inference_id
        row = Candidate(
            id=new_id(NOW),
            inference_id=inference_id,
            model="assistant",
            source=source,
            origin="big-model",
            request_hash=inference_id,
            answer=answer,
            checks=[{"check": "task contract", "passed": passed, "told": "it is as it is"}],
            state="checked" if passed else "failed",
            created=NOW.timestamp(),
        )
        session.add(row)
        session.commit()
        return row.id


def order(world: World, belief: Belief | None = None) -> list[str]:
    with world.database.reading() as session:
        return [one.failure_id for one in queue(session, "assistant", belief or Belief())]


def claim(world: World, holder: str, now: datetime = NOW, wanted: list[str] | None = None) -> str | None:
    """As a page does: the order is read before, in a view of its own."""
    places = wanted or order(world)
    with world.database.session() as session:
        found = claim_first(session, places, "assistant", holder, now)
        session.commit()
        return found


def resolve(session: Session, world: World, failure_id: str, action: str, answer: str | None = None) -> None:
    resolve_failure(session, failure_id, action, answer, "ann", world.settings, NOW)  # type: ignore[arg-type]


def test_sure_reasons_believed_raters_and_many_alike_come_first(world: World) -> None:
    doubted = waiting(world, "another thing altogether, said by the liar", user="liar")
    plain = waiting(world, "something that stands for itself")
    alike = [waiting(world, "Where is my parcel from Tuesday?", user=f"u{n}") for n in range(2)]
    unsure = waiting(world, "a last question about nothing much", confidence=0.2)
    belief = Belief(0.8, {"liar": 0.08, "ann": 0.8})
    found = order(world, belief)
    assert set(found[:2]) == set(alike)
    assert found[2:] == [plain, unsure, doubted]
    with world.database.reading() as session:
        first = queue(session, "assistant", belief)[0]
    assert (first.alike, first.confidence, first.belief, first.value) == (2, 0.9, 1.0, 1.8)


def test_what_is_decided_or_has_an_accepted_candidate_waits_no_more(world: World) -> None:
    first, second, third = (waiting(world, f"a question about {what}") for what in ("cats", "roofs", "tax"))
    candidate = propose(world, first)
    with world.database.session() as session:
        decide_candidate(session, candidate, "accept", "ann", NOW)
        resolve(session, world, second, "dismiss")
        session.commit()
    assert order(world) == [third]
    with world.database.reading() as session:
        assert count_waiting(session, "assistant") == 1
        assert count_decided(session, "assistant", "ann", NOW.timestamp() - 60) == 2
        assert count_decided(session, "assistant", "bob", NOW.timestamp() - 60) == 0
        assert count_decided(session, "assistant", "ann", NOW.timestamp() + 60) == 0


def test_a_case_with_two_accepted_candidates_is_one_that_waits_less(world: World) -> None:
    first, second = (waiting(world, f"a question about {what}") for what in ("cats", "roofs"))
    candidates = [propose(world, first), propose(world, first, source="best-of-n"), propose(world, second)]
    with world.database.session() as session:
        for one in candidates[:2]:
            decide_candidate(session, one, "accept", "ann", NOW)
        decide_candidate(session, candidates[2], "reject", "ann", NOW)
        assert (count_waiting(session, "assistant"), count_waiting(session, "another")) == (1, 0)
        assert [one.failure_id for one in queue(session, "assistant", Belief())] == [second]
        # Curation took the choice over: the case waits no more, and is not taken off a second time.
        session.get_one(Failure, first).state = "corrected"
        session.flush()
        assert count_waiting(session, "assistant") == 1


def test_where_hundreds_wait_each_has_the_value_that_one_by_one_gives_it(world: World) -> None:
    belief = Belief(0.8, {"liar": 0.1, "ann": 0.7})
    topics = ("parcels that were lost", "a bill of last year", "the colour of a lamp")
    rows = []
    for number in range(400):
        topic = topics[number % 7] if number % 7 < len(topics) else f"{number:x}" * 12
        asked = world.ask(f"please tell me about {topic}", user=f"u{number}")
        raters = ("liar",) if number % 5 == 0 else ("liar", "ann") if number % 5 == 1 else ()
        for rater in raters:
            world.say(asked, 1, rater=rater)
        share = {0: 0.1 / 0.8, 1: 0.7 / 0.8}.get(number % 5, 1.0)
        confidence = (number * 37 % 100) / 100
        reasons = [
            {"reason": "slow", "confidence": one, "evidence": ""} for one in (confidence / 2, confidence)
        ]
        alike = sum(one % 7 == number % 7 for one in range(400)) if number % 7 < len(topics) else 1
        row = Failure(id=new_id(NOW), inference_id=asked, model="assistant", created=0.0, reasons=reasons)
        rows.append((confidence * share * (1 + log2(alike)), row.id, alike))
        with world.database.session() as session:
            session.add(row)
            session.commit()
    world.write()
    with world.database.reading() as session:
        found = queue(session, "assistant", belief)
    wanted = sorted(sorted(rows, key=lambda one: one[1], reverse=True), key=lambda one: -one[0])
    assert [one.failure_id for one in found] == [identifier for _, identifier, _ in wanted]
    assert [one.alike for one in found] == [alike for _, _, alike in wanted]


def test_what_waits_is_counted_and_put_in_order_without_a_look_at_all_of_it(
    sqlite_database: Database,
) -> None:
    """At a million inferences some hundred thousand may wait."""
    with sqlite_database.reading() as session:
        told: list[str] = []

        def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            plan = connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            told.extend(row[3] for row in plan)

        event.listen(sqlite_database.engine, "before_cursor_execute", explain)
        count_waiting(session, "assistant")
        count_held(session, "assistant", NOW)
        count_decided(session, "assistant", "ann", 0.0)
        queue(session, "assistant", Belief())
        event.remove(sqlite_database.engine, "before_cursor_execute", explain)
    over_failures = [line for line in told if re.search("(SCAN|SEARCH) failure", line)]
    assert over_failures and all(line.startswith("SEARCH") for line in over_failures)
    by_state = [line for line in over_failures if "(model=? AND state=?)" in line]
    assert by_state and all("USING COVERING INDEX failure_state" in line for line in by_state)
    assert not [line for line in over_failures if "(model=?)" in line]
    assert any("INDEX candidate_accepted" in line for line in told)


def test_no_two_reviewers_hold_one_case(world: World) -> None:
    for what in ("cats", "roofs"):
        waiting(world, f"a question about {what}")
    places = order(world)
    assert claim(world, ANN, wanted=places) == places[0]
    assert claim(world, BOB, wanted=places) == places[1]
    assert claim(world, "carl:0123456789", wanted=places) is None
    with world.database.reading() as session:
        assert count_held(session, "assistant", NOW, ANN) == 1
    assert claim(world, ANN, wanted=places) == places[0], "asking again keeps it"


def test_a_claim_ends_by_itself_when_let_go_of_and_with_the_next_one(world: World) -> None:
    first, second = (waiting(world, f"a question about {what}") for what in ("cats", "roofs"))
    assert claim(world, ANN, wanted=[first]) == first
    assert claim(world, BOB, NOW + timedelta(seconds=299), [first]) is None
    assert claim(world, BOB, NOW + timedelta(seconds=301), [first]) == first
    with world.database.session() as session:
        release(session, first, ANN)  # not hers any more: nothing happens
        session.commit()
    later = NOW + timedelta(seconds=302)
    assert claim(world, ANN, later, [first]) is None
    assert claim(world, BOB, later, [second]) == second, "a holder has one case"
    assert claim(world, ANN, later, [first]) == first
    with world.database.session() as session:
        release(session, first, ANN)
        session.commit()
    assert claim(world, "carl:0123456789", later, [first]) == first


def test_a_case_that_was_decided_since_the_order_was_read_is_not_given(world: World) -> None:
    case = waiting(world, "a question about cats")
    with world.database.session() as session:
        resolve(session, world, case, "accept")
        session.commit()
    assert claim(world, ANN, wanted=[case]) is None
    with pytest.raises(BadFieldError, match="holder"):
        claim(world, "x' OR 1=1", wanted=[case])


@pytest.mark.parametrize("action", ["correct", "accept", "dismiss"])
def test_a_decision_is_taken_back(world: World, action: str) -> None:
    case = waiting(world, "a question about cats")
    with world.database.session() as session:
        resolve(session, world, case, action, RIGHT if action == "correct" else None)
        session.commit()
    with world.database.session() as session:
        row = reopen_failure(session, case, world.settings, NOW)
        session.commit()
    assert (row.state, row.resolved, row.resolved_by, row.correction) == ("quarantine", None, None, None)
    assert [one["reason"] for one in row.reasons] == ["low_rating"]
    assert order(world) == [case]


def test_a_case_goes_back_to_the_correction_that_triage_believes(world: World) -> None:
    asked = world.correct("Where is it?", RIGHT)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        row = session.exec(select(Failure).where(Failure.inference_id == asked)).one()
        resolve(session, world, row.id, "correct", OTHER)
        back = reopen_failure(session, row.id, world.settings, NOW)
        assert (back.state, back.correction, back.resolved_by) == ("corrected", RIGHT, "ann")
        session.commit()


def test_an_accepted_candidate_is_a_candidate_again(world: World) -> None:
    case = waiting(world, "a question about cats")
    candidate = propose(world, case)
    with world.database.session() as session:
        decide_candidate(session, candidate, "accept", "ann", NOW)
        reopen_failure(session, case, world.settings, NOW)
        row = session.get_one(Candidate, candidate)
        assert (row.state, row.decided, row.decided_by) == ("checked", None, None)
        with pytest.raises(ConflictError, match="nobody has decided"):
            reopen_failure(session, case, world.settings, NOW)
        with pytest.raises(NotFoundError):
            reopen_failure(session, new_id(NOW), world.settings, NOW)


def test_a_case_is_shown_with_proposals_that_pass_first_and_what_differs(world: World) -> None:
    asked = world.ask("Where is it?", WRONG)
    world.say(asked, 1, "not even JSON", "ann", comment="no bug at all")
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        case = session.exec(select(Failure)).one().id
        session.commit()
    propose(world, case)
    with world.database.reading() as session:
        place = queue(session, "assistant", Belief())[0]
        found = read_case(session, place, world.settings, Belief())
    assert (found.answer, found.messages) == (WRONG, [{"role": "user", "content": "Where is it?"}])
    assert [(one.source, one.origin, one.passed) for one in found.proposals] == [
        ("teacher", "big-model", True),
        ("demonstration", "ann", False),
    ]
    assert "JSON" in found.proposals[1].checks[0]["told"]
    assert [(part.kind, part.text) for part in found.proposals[0].difference if part.kind != "same"] == [
        ("gone", "bug"),
        ("new", "refund"),
    ]
    assert found.feedback[0].comment == "no bug at all"


def test_raters_are_weighed_as_curation_weighs_them(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, settings_for(tmp_path))  # whose database is where the process looks for it
    for number in range(6):
        prompt = f"question number {number} about {'abcdef'[number] * 8}"
        for user in ("ann", "bob", "carl"):
            world.praise(prompt, user)
        world.correct(prompt, OTHER, "liar", RIGHT)
    world.write()
    told = belief_apart(Asked(world.settings, "assistant", NOW))
    assert told.share("liar") < 0.5 < told.share("ann")
    assert told.share("nobody knows") == 1.0
