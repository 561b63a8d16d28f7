"""One request from the client to the journal: what the client gets, what the engine gets, what is kept."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from feedback.asleep import wanted_asleep
from feedback.errors import StorageError
from feedback.ids import parse_id
from feedback.settings import Engine, Server, Training
from feedback.storage.journal import Journal
from tests.server.inside import HELLO, Answer, Inside, inside, settings_for
from tests.server.upstream import FakeEngine

STREAM = {"stream": True}
ASKED_ASLEEP: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO["messages"]},
    "/v1/messages": {"messages": HELLO["messages"], "max_tokens": 8},
    "/v1/responses": {"input": "Hello?"},
}


def text_of(answer: Answer) -> str:
    return "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in answer.events
        if event != "[DONE]" and event.get("choices")
    )


def identifier(answer: Answer) -> str:
    return answer.headers["x-starloop-inference-id"]


# -- what the client gets


def test_an_answer_names_its_inference_and_its_version(gateway: Inside, engine: FakeEngine) -> None:
    answer = gateway.ask()
    assert answer.status == 200
    assert answer.headers["x-starloop-version"] == "assistant@base"
    assert answer.headers["x-starloop-captured"] == "true"
    assert answer.json["id"] == f"chatcmpl-{identifier(answer)}"
    assert answer.json["choices"][0]["message"]["content"] == "bases/starter answers"
    assert parse_id(answer.json["id"]) == identifier(answer)


def test_the_engines_bytes_are_the_answers_bytes(gateway: Inside, engine: FakeEngine) -> None:
    engine.answer = lambda body: '{"intent": "refund"} — é \u2028 "quoted"'
    answer = gateway.ask({"n": 3})
    assert len(answer.json["choices"]) == 3
    assert answer.headers["content-length"] == str(len(answer.body))
    assert b'"tool_calls": []' in answer.body  # json.dumps' spaces: nothing was encoded again


def test_a_stream_passes_event_by_event(gateway: Inside, engine: FakeEngine) -> None:
    engine.pause = 0.03
    answer = gateway.ask(STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert text_of(answer) == "bases/starter answers"
    assert answer.events[-1] == "[DONE]"
    assert len(answer.pieces) >= 6
    assert all(piece.endswith(b"\n\n") for piece in answer.pieces)


def test_usage_on_a_stream_is_shown_only_when_asked_for(gateway: Inside) -> None:
    assert not any("usage" in event for event in gateway.ask(STREAM).events)
    asked = gateway.ask({**STREAM, "stream_options": {"include_usage": True}})
    assert asked.events[-2]["usage"]["completion_tokens"] == 2


def test_plain_completions_pass_too(gateway: Inside) -> None:
    plain = gateway.call("POST", "/v1/completions", {"model": "assistant", "prompt": "Once"})
    assert plain.json["choices"][0]["text"] == "bases/starter answers"
    assert plain.json["id"] == f"cmpl-{identifier(plain)}"
    streamed = gateway.call("POST", "/v1/completions", {"model": "assistant", "prompt": "Once", **STREAM})
    assert streamed.events[-1] == "[DONE]"
    assert gateway.record(identifier(streamed))["output"] == "bases/starter answers"


# -- what the engine gets


def test_the_request_id_is_ours_whatever_the_client_sends(gateway: Inside, engine: FakeEngine) -> None:
    answer = gateway.ask(headers={"x-request-id": "mine", "x-starloop-inference-id": "mine"})
    assert engine.completions()[0].headers["x-request-id"] == identifier(answer)


def test_no_header_of_the_client_reaches_the_engine(gateway: Inside, engine: FakeEngine) -> None:
    gateway.ask(headers={"authorization": "Bearer sl-secret", "cookie": "a=b", "x-anything": "1"})
    assert set(engine.completions()[0].headers) == {"host", "content-type", "content-length", "x-request-id"}


def test_a_name_that_is_not_registered_never_reaches_an_engine(gateway: Inside, engine: FakeEngine) -> None:
    for name in [
        "nobody",
        "assistant@9.9",
        "assistant@",
        "@base",
        "../x",
        "/etc",
        "bases/starter",
        "assistant@../x",
        "",
    ]:
        answer = gateway.ask({"model": name})
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert engine.completions() == []


def test_work_is_cancelled_when_the_client_goes_away(gateway: Inside, engine: FakeEngine) -> None:
    engine.held = True
    gateway.run(
        gateway.send("POST", "/v1/chat/completions", HELLO, leaves=lambda _: bool(engine.completions()))
    )
    gateway.wait_for(lambda: engine.gone == 1)


def test_a_stream_is_cancelled_when_the_client_goes_away(gateway: Inside, engine: FakeEngine) -> None:
    engine.pause = 60.0
    sent = gateway.send(
        "POST", "/v1/chat/completions", {**HELLO, **STREAM}, leaves=lambda told: bool(told.body)
    )
    answer = gateway.run(sent)
    gateway.wait_for(lambda: engine.gone == 1)
    kept = gateway.record(identifier(answer))
    assert (kept["status"], kept["error"]) == (499, "the client went away")
    assert kept["output"] is not None and "bases/starter answers".startswith(kept["output"])


# -- what is kept


def test_everything_about_an_answer_is_kept(gateway: Inside) -> None:
    asked = {"user": "ann", "metadata": {"team": "x"}, "temperature": 0.5}
    answer = gateway.ask(asked, {"x-starloop-conversation": "c-1"})
    kept = gateway.record(identifier(answer))
    assert kept["request"] == {**HELLO, **asked}
    assert kept["response"] == answer.json
    assert kept["latency_ms"] > 0
    expected = {
        "model": "assistant",
        "version": "base",
        "purpose": "production",
        "user": "ann",
        "conversation": "c-1",
        "streamed": False,
        "status": 200,
        "error": None,
        "finish_reason": "stop",
        "prompt": "Hello?",
        "output": "bases/starter answers",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "metadata": {"team": "x"},
        "stored": True,
        "feedback": [],
    }
    assert {name: kept[name] for name in expected} == expected


def test_a_stream_is_kept_as_the_plain_answer_it_amounts_to(gateway: Inside, engine: FakeEngine) -> None:
    engine.pause = 0.02
    kept = gateway.record(identifier(gateway.ask(STREAM)))
    assert kept["streamed"]
    assert kept["response"]["object"] == "chat.completion"
    assert kept["response"]["choices"][0]["message"]["content"] == "bases/starter answers"
    assert (kept["prompt_tokens"], kept["completion_tokens"]) == (7, 2)
    assert 0 < kept["first_token_ms"] < kept["latency_ms"]


def test_with_store_false_nothing_but_metadata_is_kept(gateway: Inside) -> None:
    asked = {"store": False, "user": "ann", "metadata": {"a": "b"}}
    for body in (asked, {**asked, **STREAM}, {**asked, "max_tokens": 0}):
        kept = gateway.record(identifier(gateway.ask(body)))
        assert not kept["stored"]
        held = ("request", "response", "prompt", "output", "user", "conversation", "metadata")
        assert {kept[name] for name in held} == {None}
        assert kept["version"] == "base" and kept["latency_ms"] > 0
        assert "Hello" not in json.dumps(kept)


def test_the_record_stands_before_the_last_byte(gateway: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the journal is being written, the client has had neither its answer nor the end of its stream."""
    seen: list[bytes] = []
    answers: list[Answer] = []
    write = Journal.write

    async def watched(self: Journal, record: Any) -> None:
        seen.append(b"".join(piece for answer in answers for piece in answer.pieces))
        await write(self, record)

    monkeypatch.setattr(Journal, "write", watched)
    monkeypatch.setattr("tests.server.inside.Answer", lambda: answers.append(Answer()) or answers[-1])
    gateway.ask()
    assert seen == [b""]
    gateway.ask(STREAM)
    assert b"[DONE]" not in seen[1]


def test_purposes_other_than_production_are_kept_as_such(gateway: Inside) -> None:
    kept = gateway.record(identifier(gateway.ask(headers={"x-starloop-purpose": "evaluation"})))
    assert kept["purpose"] == "evaluation"
    assert gateway.ask(headers={"x-starloop-purpose": "fun"}).status == 400


# -- when the engine fails


def test_what_the_engine_refuses_is_told_as_it_came_and_kept(gateway: Inside) -> None:
    for extra in ({}, STREAM):
        answer = gateway.ask({"max_tokens": 0, **extra})
        assert answer.status == 400
        assert answer.json["error"]["message"] == "max_tokens must be at least 1"
        kept = gateway.record(identifier(answer))
        assert (kept["status"], kept["error"]) == (400, "max_tokens must be at least 1")


@pytest.mark.parametrize(("engines", "ours"), [(500, 502), (503, 502), (401, 502), (429, 429), (422, 422)])
def test_the_engines_own_trouble_is_not_the_clients(
    gateway: Inside, engine: FakeEngine, engines: int, ours: int
) -> None:
    engine.status = engines
    for extra in ({}, STREAM):
        answer = gateway.ask(extra)
        assert answer.status == ours
        assert "told to fail" in answer.json["error"]["message"]
        assert gateway.record(identifier(answer))["status"] == ours


def test_a_missing_engine_is_503_with_a_time_to_come_back(gateway: Inside, engine: FakeEngine) -> None:
    engine.stop()
    try:
        answer = gateway.ask()
        assert (answer.status, answer.json["error"]["type"]) == (503, "service_unavailable_error")
        assert int(answer.headers["retry-after"]) > 0
        assert gateway.record(identifier(answer))["status"] == 503
    finally:
        engine.start()
    gateway.wait_for(lambda: not gateway.gateway.engines.missing())
    assert gateway.ask().status == 200


def test_while_engines_sleep_nobody_is_answered_and_told_why_and_no_failure_is_kept(
    engine: FakeEngine, data: Path
) -> None:
    port = engine.port
    managed = replace(
        settings_for(data, []),
        engine=[Engine(base="starter", port=port)],
        training=Training(window="02:00-05:00", engine_asleep=True),
    )
    with inside(managed) as gateway:
        assert gateway.ask().status == 200
        rises = gateway.gateway.engines.rises("starter")
        with wanted_asleep(managed.directory).held("while cycle 7 trains, in the training window"):
            gateway.wait_for(gateway.gateway.engines.missing)
            asked = len(engine.seen)
            for path, body in ASKED_ASLEEP.items():
                answer = gateway.call("POST", path, {"model": "assistant", **body})
                assert (answer.status, answer.headers["retry-after"]) == (503, "60")
                assert (
                    "it sleeps while cycle 7 trains, in the training window"
                    in answer.json["error"]["message"]
                )
            health = gateway.call("GET", "/health/ready")
            assert health.status == 503
            assert health.json["missing"] == [
                "engine starter: it sleeps while cycle 7 trains, in the training window"
            ]
            assert len(engine.seen) == asked
        gateway.eventually(lambda: gateway.ask().status == 200)
        assert gateway.gateway.engines.rises("starter") == rises + 1  # made ready as after any start
        gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
        kept = gateway.call("GET", "/v1/inferences").json["items"]
        assert {one["status"] for one in kept} == {200}


def test_an_answer_that_breaks_off_is_an_error_and_kept(gateway: Inside, engine: FakeEngine) -> None:
    engine.cut_answer = True
    answer = gateway.ask()
    assert answer.status == 502
    assert gateway.record(identifier(answer))["error"].endswith("closed the connection mid-answer")


def test_a_stream_that_breaks_off_ends_with_an_error_event(gateway: Inside, engine: FakeEngine) -> None:
    engine.die_after = 3
    answer = gateway.ask(STREAM)
    assert answer.status == 200 and answer.complete
    assert "closed the connection" in answer.events[-1]["error"]["message"]
    assert "[DONE]" not in answer.events
    kept = gateway.record(identifier(answer))
    assert "closed the connection" in kept["error"]
    assert kept["output"] and "bases/starter answers".startswith(kept["output"])


def test_an_engine_that_says_nothing_is_given_up(engine: FakeEngine, tmp_path: Path) -> None:
    engine.delay = 10
    with inside(settings_for(tmp_path, [engine.url], request_seconds=0.2)) as gateway:
        answer = gateway.ask()
        assert (answer.status, answer.json["error"]["code"]) == (504, "timeout")
        gateway.wait_for(lambda: engine.gone == 1)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_never_ends_is_ended(engine: FakeEngine, tmp_path: Path, streamed: bool) -> None:
    """Bytes come all the time, so waiting for the next one would never end it."""
    engine.pieces, engine.pause = 10_000, 0.2
    engine.delay = 0.0 if streamed else 5.0
    server = Server(answer_seconds=1.0)  # a busy machine is to have begun its answer by then
    with inside(settings_for(tmp_path, [engine.url], server=server)) as gateway:
        answer = gateway.ask(STREAM if streamed else {})
        told = answer.events[-1]["error"] if streamed else answer.json["error"]
        assert "not complete after 1 s" in told["message"] and "answer_seconds" in told["message"]
        assert answer.status == (200 if streamed else 504)
        kept = gateway.record(identifier(answer))
        assert "not complete after 1 s" in kept["error"]
        gateway.wait_for(lambda: engine.gone == 1)


def test_an_answer_of_another_version_is_never_passed_on(gateway: Inside, engine: FakeEngine) -> None:
    engine.impostor = "assistant@6.6"
    for extra in ({}, STREAM):
        answer = gateway.ask(extra)
        assert b"answers" not in answer.body
        told = answer.events[-1] if extra else answer.json
        assert "'assistant@6.6' although 'bases/starter'" in told["error"]["message"]


def test_an_answer_that_is_no_completion_is_an_error(gateway: Inside, engine: FakeEngine) -> None:
    engine.garbage = b"<html>hello</html>"
    answer = gateway.ask()
    assert (answer.status, answer.json["error"]["type"]) == (502, "engine_error")


# -- when nothing can be kept


@pytest.fixture
def full(gateway: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """A gateway whose journal has no room for another record."""
    parts = gateway.gateway
    gateway.run(asyncio.to_thread(parts.drainer.stop))
    small = Journal.open(tmp_path / "small", "os", parts.now(), limit=64 * 1024)
    with pytest.raises(StorageError):
        while True:
            small.append([_padding(parts.now())])
    monkeypatch.setattr(parts.capture, "_journal", small)
    yield gateway
    small.close()
    shutil.rmtree(tmp_path / "small")


def _padding(now: Any) -> Any:
    from feedback.ids import new_id
    from feedback.storage.records import InferenceRecord

    return InferenceRecord(
        id=new_id(now), created=0, model="m", version="base", status=200, latency_ms=1, request="x" * 500
    )


def test_an_answer_that_cannot_be_kept_says_so(full: Inside) -> None:
    answer = full.ask()
    assert answer.status == 200
    assert answer.headers["x-starloop-captured"] == "false"


def test_a_stream_that_cannot_be_kept_ends_with_an_error_and_the_next_says_so_first(full: Inside) -> None:
    surprised = full.ask(STREAM)
    assert surprised.headers["x-starloop-captured"] == "true"
    assert text_of(Answer(pieces=surprised.pieces[:-1])) == "bases/starter answers"
    assert "could not be captured" in surprised.events[-1]["error"]["message"]
    warned = full.ask(STREAM)
    assert warned.headers["x-starloop-captured"] == "false"
    assert warned.events[-1] == "[DONE]"


def test_feedback_that_cannot_be_kept_is_not_acknowledged(full: Inside) -> None:
    answer = full.ask()
    told = full.call("POST", "/v1/feedback", {"inference_id": identifier(answer), "rating": 1})
    assert (told.status, told.json["error"]["type"]) == (507, "storage_error")


def test_readiness_names_a_journal_that_fails_until_it_works_again(
    full: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    full.ask()
    ready = full.call("GET", "/health/ready").json
    assert not ready["journal"]["ok"]
    assert any(missing.startswith("journal: ") for missing in ready["missing"])
    monkeypatch.setattr(full.gateway.capture, "_journal", full.gateway.journal)
    assert full.ask().headers["x-starloop-captured"] == "true"
    assert full.call("GET", "/health/ready").json["missing"] == []
