"""A judge's word: asked in both orders, held against what people said, and never a ground for a promotion."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from sqlmodel import select

from feedback.settings import Judge, Promotion
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, Judgement
from tests.trainer.world import MODEL, World, truth
from trainer.commands.evaluate import evaluate
from trainer.comparison import Outcome
from trainer.cycle import run_cycle
from trainer.evaluation import pinned
from trainer.findings import Latency
from trainer.gate import Evidence, decide
from trainer.judge import (
    RUBRIC,
    Judged,
    finding_of,
    judge_where_configured,
    open_judge,
    shown,
)
from trainer.suites import collect
from trainer.teacher import Teacher
from trainer.workshop import Workshop

PLAIN = Judged("big", 100, 40, 30, 5, 5, 30, 29, 0.8)
"""A judge that counts and prefers the challenger."""


class Court:
    """A world whose golden cases a stand-in judges: `says` gets conversation, first and second."""

    def __init__(self, database: Database, directory: Path, **settings: Any) -> None:
        plain = {"url": "http://judge/v1", "model": "big", "price_in": 1.0, "price_out": 1.0, "retries": 0}
        self.world = World(database, directory, judge=Judge(**(plain | settings)))
        self.says: Callable[[dict[str, Any]], str] = right
        self.asked: list[dict[str, Any]] = []
        self.world.users_correct(120)
        self.world.people_confirm(old=50, new=50)

    def workshop(self) -> Workshop:
        judge = Teacher(
            self.world.settings.judge,
            "sk-judge",
            who="judge",
            variable="STARLOOP_JUDGE_KEY",
            transport=httpx.MockTransport(self._respond),
            pause=lambda _: True,
        )
        return replace(self.world.workshop(), judge=judge)

    def cycle(self) -> Cycle:
        identifier = self.world.request()
        return run_cycle(self.workshop(), self.world.record(identifier), pauses=())

    def verdicts(self) -> list[Judgement]:
        with self.world.database.reading() as session:
            return list(session.exec(select(Judgement)))

    def _respond(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        said = self.says(json.loads(body["messages"][-1]["content"]))
        if said == "away":
            return httpx.Response(503, json={"error": {"message": "busy"}})
        return httpx.Response(
            200,
            json={
                "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 1},
            },
        )


def right(material: dict[str, Any]) -> str:
    """Prefers the answer that is right."""
    expected = truth(material["conversation"][-1]["content"])
    return next((place for place in ("first", "second") if material[place] == expected), "neither")


def wrong(material: dict[str, Any]) -> str:
    """Prefers the other."""
    return {"first": "second", "second": "first"}.get(right(material), "neither")


@pytest.fixture
def court(sqlite_database: Database, tmp_path: Path) -> Court:
    return Court(sqlite_database, tmp_path)


def judged(cycle: Cycle) -> dict[str, Any]:
    assert cycle.result is not None
    found: dict[str, Any] = cycle.result["judge"]
    return found


def test_a_judge_is_asked_in_both_orders_with_the_rubric_and_without_the_right_answer(court: Court) -> None:
    cycle = court.cycle()
    assert cycle.decision == "promoted"
    assert len(court.asked) == 100  # fifty golden cases on which the two differ, twice
    for body in court.asked:
        system, user = body["messages"]
        assert system["content"] == RUBRIC and body["temperature"] == 0
        assert set(json.loads(user["content"])) == {"conversation", "first", "second"}
    orders = {
        tuple(json.loads(body["messages"][1]["content"])[p] for p in ("first", "second"))
        for body in court.asked
    }
    assert {(other, one) for one, other in orders} == orders
    found = judged(cycle)
    assert (found["cases"], found["asked"], found["wins"], found["losses"]) == (100, 50, 50, 0)
    assert (found["known"], found["agreed"], found["agreement"], found["counts"]) == (50, 50, 1.0, True)


def test_a_judge_that_prefers_a_place_says_nothing(court: Court) -> None:
    court.says = lambda material: "first"
    cycle = court.cycle()
    found = judged(cycle)
    assert (found["wins"], found["losses"], found["inconsistent"]) == (0, 0, 50)
    assert (found["agreement"], found["counts"]) == (0.0, False)
    assert cycle.decision == "promoted"


def test_a_judge_who_contradicts_people_does_not_count_and_stops_nothing(court: Court) -> None:
    court.says = wrong
    cycle = court.cycle()
    assert (judged(cycle)["losses"], judged(cycle)["counts"]) == (50, False)
    assert cycle.decision == "promoted"
    assert cycle.result is not None
    told = next(one for one in cycle.result["gate"]["findings"] if one["about"] == "judge")
    assert told["verdict"] == "note" and "its word does not count" in told["text"]
    assert "Agreement with people: 0% of 50" in told["text"]


def test_a_judge_that_goes_away_costs_a_cycle_its_word_and_keeps_what_it_said(court: Court) -> None:
    court.says = lambda material: "away" if len(court.asked) > 20 else right(material)
    cycle = court.cycle()
    assert cycle.result is not None and cycle.result["judge"] is None
    assert cycle.decision == "promoted"
    told = next(entry["outcome"] for entry in cycle.steps if entry["step"] == "evaluate")
    assert "no word of the judge: the judge at http://judge/v1 did not answer" in told
    assert len(court.verdicts()) == 20


def test_the_same_question_is_paid_for_once(court: Court) -> None:
    court.cycle()
    workshop = court.workshop()
    with court.world.database.reading() as session:
        cases = collect(session, MODEL, court.world.settings).golden
    model = workshop.model(MODEL)
    ours, theirs = (
        workshop.evaluation().answers(pinned(workshop.settings, model, number), cases, lambda: None)
        for number in ("base", "1.0")
    )
    before = len(court.asked)
    found, trouble = judge_where_configured(workshop, cases, ours, theirs, lambda: None)
    assert found is not None and (found.wins, trouble) == (50, [])
    assert len(court.asked) == before == len(court.verdicts())
    assert {row.tokens for row in court.verdicts()} == {101}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"limit": 7}, "[judge] limit is 7 pairs"),
        ({"budget_tokens": 2000}, "raise [judge] budget_tokens"),
        ({"budget_money": 0.001}, "or budget_money"),
    ],
    ids=["limit", "tokens", "money"],
)
def test_what_it_may_take_is_bounded(
    sqlite_database: Database, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    court = Court(sqlite_database, tmp_path, **settings)
    found = judged(court.cycle())
    assert told in found["stopped"]
    assert 0 < len(court.asked) < 40
    assert found["asked"] <= 20 and found["cases"] < 100
    assert sum(row.tokens for row in court.verdicts()) <= 4000


def test_a_refused_key_names_its_own_variable(court: Court) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"error": {"message": "bad key sk-judge"}})

    judge = Teacher(
        court.world.settings.judge,
        "sk-judge",
        who="judge",
        variable="STARLOOP_JUDGE_KEY",
        transport=httpx.MockTransport(refuse),
    )
    identifier = court.world.request()
    cycle = run_cycle(replace(court.world.workshop(), judge=judge), court.world.record(identifier), pauses=())
    told = next(entry["outcome"] for entry in cycle.steps if entry["step"] == "evaluate")
    assert "the judge at http://judge/v1 refused the key (401); set STARLOOP_JUDGE_KEY" in told
    assert "sk-judge" not in msgspec.json.encode(cycle.steps).decode()


def test_without_an_address_nobody_is_asked() -> None:
    assert open_judge(Judge(), "sk") is None
    assert open_judge(Judge(url="http://judge/v1", model="big"), None) is not None


@pytest.mark.parametrize(
    ("changes", "counts", "verdict"),
    [
        ({}, True, "note"),
        ({"wins": 5, "losses": 30}, True, "open"),
        ({"wins": 10, "losses": 12}, True, "note"),
        ({"wins": 5, "losses": 30, "agreed": 20}, False, "note"),
        ({"wins": 5, "losses": 30, "known": 4, "agreed": 4}, False, "note"),
        ({"wins": 0, "losses": 40, "known": 0, "agreed": 0}, False, "note"),
    ],
    ids=["for", "against", "undecided", "contradicts people", "too few pairs", "nothing known"],
)
def test_its_word_can_hold_a_promotion_up_and_nothing_else(
    changes: dict[str, int], counts: bool, verdict: str
) -> None:
    one = msgspec.structs.replace(PLAIN, **changes)
    assert one.counts is counts
    assert one.finding().verdict == verdict
    assert finding_of(shown(one)) == one.finding()


def _decide(gained: int, judge: Judged | None) -> str:
    golden = [Outcome(str(n), 0.0, float(n < gained)) for n in range(100)]
    kept = [Outcome(str(n), 1.0, 1.0) for n in range(400)]
    latency = Latency(30, 5.0, 5.0, 1.0, (0.98, 1.02), False)
    finding = judge and judge.finding()
    return decide(Evidence(golden, kept, [], kept, latency, judge=finding), Promotion()).decision


def test_the_gate_promotes_nothing_on_a_judges_word_and_waits_where_it_speaks_against() -> None:
    against = msgspec.structs.replace(PLAIN, wins=2, losses=30)
    assert [_decide(0, None), _decide(0, PLAIN)] == ["inconclusive", "inconclusive"]
    assert [_decide(40, None), _decide(40, PLAIN), _decide(40, against)] == [
        "promoted",
        "promoted",
        "inconclusive",
    ]


def test_versions_put_side_by_side_by_command_are_judged_too(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    court.cycle()
    monkeypatch.setattr("trainer.opening.open_workshop", lambda _, **__: nullcontext(court.workshop()))
    file = court.world.directory / "starloop.toml"
    base = court.world.settings.model[0].base
    file.write_text(
        f'[storage]\ndirectory = "{court.world.directory}"\n[[engine]]\nbase = "{base}"\n'
        f'[[model]]\nname = "{MODEL}"\nbase = "{base}"\n'
    )
    before = len(court.asked)
    arguments = ["--model", MODEL, "--versions", "base,1.0", "--config", str(file)]
    shown = CliRunner().invoke(evaluate, arguments)
    assert shown.exit_code == 0, shown.output
    assert (
        "1.0 beside base: the judge big prefers it in 50 of 100 golden cases and the other in 0 (95 %: +40.4 to +59.6 points); "
        "agreement with people 100.0% of 50, so its word counts; 10,100 tokens, cost 0.0101" in shown.stdout
    )
    first, second = json.loads(CliRunner().invoke(evaluate, [*arguments, "--json"]).stdout)["versions"]
    assert first["judge"] is None and second["judge"]["wins"] == 50
    assert len(court.asked) == before, "the same question is paid for once"
