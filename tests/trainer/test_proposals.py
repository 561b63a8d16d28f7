"""Corrections that models propose: checked, paid for once, within a budget, and trained on only where that was allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlmodel import select

from feedback.datasets.candidates import accepted_candidates, decide_candidate
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import choose_corrections
from feedback.datasets.failures import triage_model
from feedback.datasets.ladder import Accepted
from feedback.errors import ConflictError, DataRefusedError, NotFoundError
from feedback.settings import Dataset
from feedback.settings import Teacher as TeacherSettings
from feedback.starter.grammar import SCHEMA
from feedback.storage.database import Database
from feedback.storage.tables import Candidate
from tests.feedback.test_curation import said, signal
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, settings_for
from tests.feedback.world import World as Record
from trainer.gateway import Gateway
from trainer.proposals import Proposed, ask_teacher, best_of_n, propose_where_configured
from trainer.teacher import Teacher
from trainer.workshop import Workshop


class School:
    """A record with complaints, a teacher, and the model behind its gateway."""

    def __init__(self, database: Database, directory: Path, schema: bool = True, **teacher: Any) -> None:
        settings = settings_for(directory)
        if schema:
            (directory / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
        model = msgspec.structs.replace(
            settings.model[0], base="other", schema=str(directory / "schema.json") if schema else ""
        )
        plain = {"url": "http://teacher/v1", "model": "big", "price_in": 1.0, "price_out": 1.0, "retries": 0}
        self.settings = msgspec.structs.replace(
            settings, model=[model], teacher=TeacherSettings(**(plain | teacher))
        )
        self.record = Record(database, self.settings)
        self.answer: Callable[[dict[str, Any]], str] = lambda _: RIGHT
        self.samples = [RIGHT]
        self.asked: list[dict[str, Any]] = []
        gateway = Gateway("http://starloop", "k", transport=httpx.MockTransport(self._sampled), patience=0.0)
        self.teacher = Teacher(
            self.settings.teacher, "sk", transport=httpx.MockTransport(self._taught), pause=lambda _: True
        )
        self.workshop = Workshop(database, self.settings, gateway, None, lambda: NOW, self.teacher)  # type: ignore[arg-type]

    def complain(self, *prompts: str) -> None:
        for prompt in prompts:
            self.record.say(self.record.ask(prompt), 1)
        self.record.write()
        with self.workshop.database.session() as session:
            triage_model(session, "assistant", self.settings, NOW)
            session.commit()

    def teach(self, limit: int = 50) -> Proposed:
        return ask_teacher(self.workshop, self.settings.model[0], self.teacher, limit)

    def best(self, n: int = 4) -> Proposed:
        return best_of_n(self.workshop, self.settings.model[0], self.workshop.gateway, n, 50)

    def candidates(self) -> list[Candidate]:
        with self.workshop.database.reading() as session:
            return list(session.exec(select(Candidate)))

    def _taught(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        choice = {"message": {"content": self.answer(body)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 40, "completion_tokens": 10}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})

    def _sampled(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        given = [self.samples[place % len(self.samples)] for place in range(body["n"])]
        choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in given]
        return httpx.Response(200, json={"choices": choices})


@pytest.fixture
def school(sqlite_database: Database, tmp_path: Path) -> School:
    return School(sqlite_database, tmp_path)


def test_a_teacher_proposes_for_what_nobody_corrected_and_is_told_the_form(school: School) -> None:
    school.complain("where is my refund", "it does not work at all")
    done = school.teach()
    assert (done.asked, done.checked, done.tokens) == (2, 2, 100)
    assert "JSON schema" in school.asked[0]["messages"][0]["content"]
    (one, _) = school.candidates()
    assert (one.state, one.origin, one.answer, one.cost) == ("checked", "big", RIGHT, 0.00005)
    assert school.teach().asked == 0


@pytest.mark.parametrize("answer", ["it is a refund", WRONG, ""])
def test_a_proposal_out_of_form_or_equal_to_the_failed_answer_fails_its_checks(
    school: School, answer: str
) -> None:
    school.complain("where is my refund")
    school.answer = lambda _: answer
    assert school.teach().failed == 1
    (one,) = school.candidates()
    assert one.state == "failed" and not all(check["passed"] for check in one.checks)
    with school.workshop.database.session() as session, pytest.raises(ConflictError, match="does not pass"):
        decide_candidate(session, one.id, "accept", "rob", NOW)


def test_the_same_question_is_paid_for_once(school: School) -> None:
    school.complain("where is my refund", "where is my refund")
    done = school.teach()
    assert (done.asked, done.known, done.tokens) == (1, 1, 50)
    assert len(school.asked) == 1
    assert sorted(one.cost for one in school.candidates())[0] == 0.0


def test_a_budget_in_tokens_stops_before_it_is_passed(sqlite_database: Database, tmp_path: Path) -> None:
    school = School(sqlite_database, tmp_path, budget_tokens=600, max_tokens=64)
    school.complain(*[f"question number {n} about things" for n in range(30)])
    done = school.teach()
    assert 0 < done.asked < 30 and done.tokens <= 600
    assert "raise [teacher] budget_tokens" in done.stopped


def test_a_budget_in_money_stops_before_it_is_passed(sqlite_database: Database, tmp_path: Path) -> None:
    school = School(sqlite_database, tmp_path, budget_money=0.001, price_out=10.0, max_tokens=64)
    school.complain(*[f"question number {n} about things" for n in range(30)])
    done = school.teach()
    assert done.asked < 30 and done.cost <= 0.001 and done.stopped


def test_the_best_of_several_is_what_most_answers_in_form_agree_on(school: School) -> None:
    school.complain("where is my refund")
    school.samples = [RIGHT, RIGHT, "no json", RIGHT]
    assert school.best().checked == 1
    (one,) = school.candidates()
    assert (one.answer, one.source, one.origin) == (RIGHT, "best-of-n", "assistant@base")
    assert school.asked[0]["n"] == 4


def test_answers_that_do_not_agree_are_no_candidate(school: School) -> None:
    school.complain("where is my refund")
    school.samples = [RIGHT, OTHER]
    assert school.best().failed == 1


def test_best_of_n_without_a_contract_is_refused_in_words(sqlite_database: Database, tmp_path: Path) -> None:
    school = School(sqlite_database, tmp_path, schema=False)
    with pytest.raises(DataRefusedError, match="has no task contract"):
        school.best()


def test_where_the_engine_holds_answers_to_their_form_that_is_no_check_of_theirs(school: School) -> None:
    model = msgspec.structs.replace(school.settings.model[0], constrain=True)
    with pytest.raises(DataRefusedError, match="writes nothing out of form"):
        best_of_n(school.workshop, model, school.workshop.gateway, 4, 50)


def test_a_candidate_waits_for_a_person_unless_checked_ones_are_accepted(school: School) -> None:
    school.complain("where is my refund")
    school.teach()
    (one,) = school.candidates()
    with school.workshop.database.session() as session:
        assert accepted_candidates(session, "assistant", checked_too=False) == {}
        assert accepted_candidates(session, "assistant", checked_too=True)[one.inference_id].answer == RIGHT
        decide_candidate(session, one.id, "accept", "rob", NOW)
        found = accepted_candidates(session, "assistant", checked_too=False)[one.inference_id]
        assert found.why["accepted_by"] == "rob"
        with pytest.raises(ConflictError, match="accepted already, by rob"):
            decide_candidate(session, one.id, "reject", "sue", NOW)
        with pytest.raises(NotFoundError):
            decide_candidate(session, "nothing", "accept", "rob", NOW)


def test_a_teacher_that_is_away_costs_a_cycle_nothing_but_its_proposals(school: School) -> None:
    school.complain("where is my refund")

    def away(_: dict[str, Any]) -> str:
        raise httpx.ConnectError("gone")

    school.answer = away
    told = propose_where_configured(school.workshop, school.settings.model[0], school.teacher, lambda: None)
    assert len(told) == 1 and told[0].startswith("no more proposals: the teacher at http://teacher/v1")


def test_what_models_wrote_is_at_most_a_share_of_all_targets() -> None:
    failed = [said(f"failed {n}", signal(f"user {n}", None)) for n in range(20)]
    people = [said(f"people {n}", signal(f"kind {n}", RIGHT)) for n in range(7)]
    accepted = {one.inference_id: Accepted(RIGHT, "teacher", {}) for one in failed}
    chosen = choose_corrections(
        [*failed, *people], (), (), TaskContract(SCHEMA), Dataset(self_generated=0.3), (), accepted=accepted
    )
    sources = [example.source for example in chosen.examples]
    assert (sources.count("teacher"), sources.count("correction")) == (3, 7)
    assert chosen.dropped["models wrote, above [dataset] self_generated"] == 17
