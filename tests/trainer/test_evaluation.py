"""Asking versions through the server: remembered, resumable, timed in turns; and what counts as right."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import httpx
import pytest

from feedback.datasets.answer_match import matches
from feedback.datasets.cases import EvalCase
from feedback.datasets.contract import TaskContract
from feedback.errors import UnavailableError
from feedback.storage.database import Database
from tests.trainer.test_lease import Clock
from trainer.evaluation import Evaluation, PinnedVersion
from trainer.gateway import Answer, Gateway
from trainer.latency import PAIRS, measure
from trainer.metrics import Metrics
from trainer.scoring import outcomes, validity

BASE, FIRST = PinnedVersion("assistant", "base", "revision-a"), PinnedVersion("assistant", "1.0")


def case(number: int) -> EvalCase:
    return EvalCase(
        f"case-{number:04}", [{"role": "user", "content": f"question {number}"}], f"answer {number}"
    )


class Asked:
    """A server that remembers what it was asked, and may be away."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.away_after: int | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away_after is not None and len(self.calls) >= self.away_after:
            return httpx.Response(503, json={"error": {"message": "away"}})
        body = json.loads(request.content)
        text = body["messages"][-1]["content"]
        self.calls.append((body["model"], text))
        message = {"content": text.replace("question", "answer")}
        return httpx.Response(
            200,
            json={
                "choices": [{"message": message, "finish_reason": "stop"}],
                "usage": {"completion_tokens": 4},
            },
        )


def evaluation(
    database: Database, respond: Callable[[httpx.Request], httpx.Response], max_tokens: int = 16
) -> Evaluation:
    gateway = Gateway(
        "http://starloop", None, transport=httpx.MockTransport(respond), patience=0.0, pause=lambda _: False
    )
    return Evaluation(database, gateway, Clock(), concurrency=4, max_tokens=max_tokens)


def go_on() -> None:
    """Nothing stops this evaluation."""


def test_answers_come_by_case_and_are_asked_for_once(database: Database) -> None:
    server = Asked()
    cases = [case(n) for n in range(30)]
    told: list[tuple[int, int]] = []
    first = evaluation(database, server).answers(FIRST, cases, go_on, lambda *count: told.append(count))
    assert first["case-0007"] == Answer("answer 7", "stop", 4, first["case-0007"].latency_ms)
    assert sorted(server.calls) == sorted(("assistant@1.0", f"question {n}") for n in range(30))
    assert told[0] == (0, 30) and told[-1] == (30, 30)
    again = evaluation(database, server).answers(FIRST, cases, go_on)
    assert again == first and len(server.calls) == 30


def test_versions_decoding_and_another_base_are_asked_anew(sqlite_database: Database) -> None:
    server, cases = Asked(), [case(1)]
    asks = evaluation(sqlite_database, server)
    asks.answers(FIRST, cases, go_on)
    asks.answers(BASE, cases, go_on)
    asks.answers(BASE, cases, go_on)
    assert len(server.calls) == 2
    asks.answers(PinnedVersion("assistant", "base", "revision-b"), cases, go_on)
    assert len(server.calls) == 3
    evaluation(sqlite_database, server, max_tokens=32).answers(FIRST, cases, go_on)
    assert len(server.calls) == 4
    for labels in (["a"], ["a", "b"], ["a"]):  # held to another form it may answer otherwise
        asks.answers(PinnedVersion("assistant", "1.0", form={"choice": labels}), cases, go_on)
    assert len(server.calls) == 6


def test_what_the_engine_refused_is_asked_again_another_time(sqlite_database: Database) -> None:
    def refusing(_: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": {"message": "the grammar cannot be read"}})

    said = evaluation(sqlite_database, refusing).answers(FIRST, [case(1)], go_on)["case-0001"]
    assert said.text == "" and (said.finish_reason or "").startswith("refused: the grammar")
    assert (
        evaluation(sqlite_database, Asked()).answers(FIRST, [case(1)], go_on)["case-0001"].text == "answer 1"
    )


def test_two_cases_with_the_same_prompt_are_one_question(sqlite_database: Database) -> None:
    server = Asked()
    twice = [case(1), EvalCase("another", case(1).messages, "something else")]
    answers = evaluation(sqlite_database, server).answers(FIRST, twice, go_on)
    assert set(answers) == {"case-0001", "another"} and len(server.calls) == 1


def test_what_came_in_before_the_engine_went_away_is_kept(sqlite_database: Database) -> None:
    server = Asked()
    server.away_after = 20
    with pytest.raises(UnavailableError):
        evaluation(sqlite_database, server).answers(FIRST, [case(n) for n in range(50)], go_on)
    server.away_after = None
    evaluation(sqlite_database, server).answers(FIRST, [case(n) for n in range(50)], go_on)
    assert len(server.calls) == 50


def test_an_evaluation_can_be_stopped_between_requests(sqlite_database: Database) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        evaluation(sqlite_database, Asked()).answers(FIRST, [case(n) for n in range(50)], stop)


@pytest.mark.parametrize(("factor", "low", "high"), [(1.0, 0.96, 1.04), (1.3, 1.25, 1.35)])
def test_latencies_are_compared_in_turns_so_that_drift_cancels(
    sqlite_database: Database, factor: float, low: float, high: float
) -> None:
    now, order, noise = [0.0], list[str](), random.Random(3)
    server = Asked()

    def respond(request: httpx.Request) -> httpx.Response:
        name = json.loads(request.content)["model"].partition("@")[2]
        order.append(name)
        drift = 1 + len(order) / 60  # the machine gets slower all the time
        now[0] += 0.010 * drift * (factor if name == "1.1" else 1.0) * noise.lognormvariate(0, 0.05)
        return server(request)

    gateway = Gateway("http://starloop", None, transport=httpx.MockTransport(respond), clock=lambda: now[0])
    asks = Evaluation(sqlite_database, gateway, Clock(), 4, 16)
    challenger = PinnedVersion("assistant", "1.1")
    latency = measure(asks, FIRST, challenger, [case(n) for n in range(100)], go_on)
    assert latency is not None
    assert order[:4] == ["1.0", "1.1", "1.1", "1.0"] and len(order) == 4 * PAIRS
    assert low < latency.ratio < high
    assert latency.interval[0] <= latency.ratio <= latency.interval[1]
    assert not latency.against_base


def test_latency_without_tokens_is_not_measured(sqlite_database: Database) -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"choices": [{"message": {"content": ""}}]})

    asks = evaluation(sqlite_database, respond)
    assert measure(asks, BASE, FIRST, [case(1)], go_on) is None
    assert measure(asks, BASE, FIRST, [], go_on) is None


@pytest.mark.parametrize(
    ("expected", "output", "right"),
    [
        ('{"intent": "refund", "urgency": "high"}', '{"urgency":"high","intent":"refund"}', True),
        ('{"intent": "refund"}', '{"intent": "voucher"}', False),
        ('{"a": 1}', '{"a": true}', False),
        (" blue ", "blue", True),
        ("blue", "Blue", False),
        ('{"a": 1}', "not JSON", False),
        ("", "", True),
        ("7", "7.0", False),
    ],
)
def test_right_means_the_same_json_or_else_the_same_text(expected: str, output: str, right: bool) -> None:
    assert matches(expected, output) is right


def test_figures_of_a_version_over_a_suite() -> None:
    cases = [case(n) for n in range(4)]
    given = {
        "case-0000": Answer("answer 0", "stop", 2, 10.0),
        "case-0001": Answer("answer 1", "stop", 4, 20.0),
        "case-0002": Answer("wrong", "stop", 2, 30.0),
        "case-0003": Answer("", "stop", 0, 40.0),
    }
    figures = Metrics.of(cases, given, TaskContract(None))
    assert (figures.n, figures.accuracy, figures.valid_format) == (4, 0.5, 0.75)
    assert (figures.ms_per_request, figures.ms_per_token) == (25.0, 5.0)
    assert Metrics.of([], given, TaskContract(None)).accuracy is None


def test_answers_are_paired_by_case() -> None:
    cases = [case(0), case(1)]
    ours = {"case-0000": Answer("answer 0", "stop", 2, 1.0), "case-0001": Answer("", "stop", 0, 1.0)}
    theirs = {"case-0000": Answer("no", "stop", 2, 1.0), "case-0001": Answer("answer 1", "stop", 2, 1.0)}
    paired = outcomes(cases, ours, theirs, TaskContract(None))
    assert [(one.champion, one.challenger) for one in paired] == [(1, 0), (0, 1)]
    assert [one.said for one in paired] == [("answer 0", "no"), ("", "answer 1")]
    formats = validity(cases, ours, theirs, TaskContract(None))
    assert [(one.champion, one.challenger) for one in formats] == [(1, 1), (0, 1)]
