"""The gateway's log: what stands in it, in which form, and that nothing of a user or a key ever does."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.access.tokens import FeedbackTokens
from feedback.logs import FIELDS, JsonLines, TextLines
from feedback.settings import Server
from tests.server.inside import HELLO, Inside, inside, settings_for
from tests.server.served import served
from tests.server.test_access import bearing, make_key
from tests.server.test_completion import STREAM, full, identifier
from tests.server.upstream import FakeEngine, fake_engine

__all__ = ["full"]  # a fixture
QUESTION, REPLY, USER, REMARK = "my-secret-question", "its-secret-answer", "secret-ann", "secret-remark"


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[dict[str, Any]]:
    """What was logged, as the JSON form has it."""
    form = JsonLines()
    return [json.loads(form.format(record)) for record in caplog.records if record.levelno >= level]


def of(caplog: pytest.LogCaptureFixture, inference: str) -> list[dict[str, Any]]:
    return [line for line in lines(caplog) if line.get("inference_id") == inference]


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


# -- what is logged


def test_an_answer_leaves_no_line_unless_that_is_asked_for(
    gateway: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    assert of(caplog, identifier(gateway.ask())) == []
    assert of(caplog, identifier(gateway.ask({"max_tokens": 0}))) == []


def test_with_log_requests_every_inference_is_found_by_its_id(
    engine: FakeEngine, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with inside(settings_for(data, [engine.url], server=Server(log_requests=True))) as gateway:
        for body, status in (({}, 200), (STREAM, 200), ({"max_tokens": 0}, 400), ({"store": False}, 200)):
            (line,) = of(caplog, identifier(gateway.ask(body)))
            assert (line["level"], line["message"], line["status"]) == ("INFO", "inference", status)
            assert (line["model"], line["version"], line["route"]) == (
                "assistant",
                "base",
                "/v1/chat/completions",
            )
            assert line["ms"] > 0


def test_what_failed_is_always_logged_with_its_id_and_its_kind(
    gateway: Inside, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.status = 500
    failed = identifier(gateway.ask())
    engine.status, engine.die_after = 200, 2
    broken = identifier(gateway.ask(STREAM))
    for inference in (failed, broken):
        (line,) = of(caplog, inference)
        assert (line["level"], line["message"], line["status"]) == ("ERROR", "inference failed", 502)
        assert line["error"] == "BrokenAnswerError"


def test_an_engine_that_is_taken_out_is_logged_once(
    gateway: Inside, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.ask()
    engine.stop()
    try:
        inferences = [identifier(gateway.ask()) for _ in range(3)]
        (ejected,) = [line for line in lines(caplog) if "cannot be reached" in line["message"]]
        assert (ejected["level"], ejected["logger"]) == ("WARNING", "server.replicas")
        assert [of(caplog, one)[0]["status"] for one in inferences] == [503] * 3
    finally:
        engine.start()


def test_an_answer_that_could_not_be_captured_is_logged(
    full: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = of(caplog, identifier(full.ask()))
    assert (line["level"], line["message"]) == ("ERROR", "inference was not captured")
    refused = full.call("POST", "/v1/feedback", {"inference_id": line["inference_id"], "rating": 1})
    assert refused.status == 507
    (line,) = [line for line in lines(caplog) if line["message"] == "request failed"]
    assert (line["route"], line["status"], line["error"]) == ("/v1/feedback", 507, "StorageError")


# -- what is never logged


def test_nothing_of_a_user_and_no_key_is_logged_whatever_goes_wrong(
    engine: FakeEngine, data: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.answer = lambda _body: REPLY
    asked = {
        "messages": [{"role": "user", "content": QUESTION}],
        "user": USER,
        "metadata": {"note": USER},
    }
    echo = {"error": {"message": f"cannot read {QUESTION}", "type": "x", "param": None, "code": 500}}
    with inside(settings_for(data, [engine.url], server=Server(log_requests=True))) as gateway:
        key = make_key(gateway, "admin")
        headers = bearing(key)
        answers = [gateway.ask({**asked, **extra}, headers) for extra in ({}, STREAM, {"max_tokens": 0})]
        token = answers[0].headers["x-starloop-feedback-token"]
        said = {"rating": 1, "comment": REMARK, "correction": REMARK}
        inference = identifier(answers[0])
        for body in (
            {"inference_id": inference, "feedback_token": token, **said},
            {"inference_id": inference, "feedback_token": token + "x", **said},
            {"inference_id": inference, "feedback_token": token, "rating": REMARK},
        ):
            gateway.call("POST", "/v1/feedback", body)
        gateway.ask({**asked, "model": QUESTION}, headers)
        gateway.ask({**asked, "messages": QUESTION}, headers)
        gateway.ask(asked, bearing("sl-" + QUESTION))
        gateway.call("GET", f"/v1/inferences?q={QUESTION}&user={USER}", None, headers)
        monkeypatch.setattr("tests.server.upstream._error", lambda *_: echo)
        for engine.status in (500, 400, 404):
            gateway.ask(asked, headers)
        engine.status = 200
        for engine.garbage in (REPLY.encode(), json.dumps({"choices": REPLY}).encode()):
            gateway.ask(asked, headers)
        engine.garbage, engine.impostor = None, "assistant@6.6"
        gateway.ask(asked, headers)
        engine.impostor, engine.cut_answer = None, True
        gateway.ask(asked, headers)
        engine.cut_answer, engine.die_after = False, 3
        gateway.ask({**asked, **STREAM}, headers)
        engine.die_after = None

        def stumble(*_: object) -> str:
            raise ValueError(f"unexpected {QUESTION} with {key} and {token}")

        monkeypatch.setattr(FeedbackTokens, "issue", stumble)
        assert gateway.ask(asked, headers).status == 500
        engine.stop()
        gateway.ask(asked, headers)
        engine.start()
    assert len(lines(caplog)) > 12
    assert any(
        "unexpected ValueError" in line["message"] and "stumble" in line["message"] for line in lines(caplog)
    )
    secrets = (QUESTION, REPLY, USER, REMARK, key, token)
    for form in (JsonLines(), TextLines()):
        text = "\n".join(form.format(record) for record in caplog.records)
        assert [secret for secret in secrets if secret in text] == []


# -- its forms


def a_record(**extra: Any) -> logging.LogRecord:
    record = logging.LogRecord("server.x", logging.ERROR, __file__, 1, "%s\nfailed", ("it",), None)
    record.created = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC).timestamp()
    record.__dict__.update(extra)
    return record


def test_a_json_line_is_one_object_with_the_fields_that_apply() -> None:
    line = JsonLines().format(a_record(inference_id="x", status=502, ms=1.5, unknown="y"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-02T03:04:05.678+00:00",
        "level": "ERROR",
        "logger": "server.x",
        "message": "it\nfailed",
        "inference_id": "x",
        "status": 502,
        "ms": 1.5,
    }


def test_a_traceback_stands_in_the_same_json_line() -> None:
    record = a_record()
    try:
        raise KeyError("x")
    except KeyError:
        record.exc_info = sys.exc_info()
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "KeyError: 'x'" in json.loads(line)["exception"]


def test_text_shows_the_fields_behind_the_message() -> None:
    text = TextLines("%(levelname)s %(message)s").format(a_record(inference_id="x", status=502))
    assert text == "ERROR it\nfailed inference_id=x status=502"


def test_every_field_that_reports_give_is_shown() -> None:
    given = dict.fromkeys(FIELDS, 1)
    assert json.loads(JsonLines().format(a_record(**given))).items() >= given.items()


# -- as it is served


def test_a_served_gateway_writes_nothing_but_json_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARLOOP_SERVER__LOG", "json")
    monkeypatch.setenv("STARLOOP_SERVER__LOG_REQUESTS", "true")
    with fake_engine() as engine, served(tmp_path / "one", [engine.url]) as gateway:
        answer = httpx.post(f"{gateway.address}/v1/chat/completions", json=HELLO)
        inference = answer.headers["x-starloop-inference-id"]
        engine.status = 500
        failed = httpx.post(f"{gateway.address}/v1/chat/completions", json=HELLO)
        assert (answer.status_code, failed.status_code) == (200, 502)
        time.sleep(0.1)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(30)
    written = [json.loads(line) for line in (tmp_path / "one" / "serve.log").read_text().splitlines()]
    assert all(set(line) >= {"time", "level", "logger", "message"} for line in written)
    assert [line["message"] for line in written if line.get("inference_id") == inference] == ["inference"]
    assert [line["level"] for line in written if line.get("status") == 502] == ["ERROR"]
    assert "server.commands.serve" in {line["logger"] for line in written}
