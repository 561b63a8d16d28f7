"""No secret leaves the place where it belongs: not into logs, errors, the record or any other file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from feedback.access.keys import LOOP_KEY, read_loop_key
from feedback.access.sessions import SESSION_KEY
from feedback.access.tokens import TOKEN_KEY
from tests.server.inside import Answer, Inside, inside, settings_for
from tests.server.test_access import bearing, make_key
from tests.server.test_session import carried, guarded, sign_in
from tests.server.upstream import FakeEngine

MISSING = "019b7700-0000-7000-8000-000000000000"


@pytest.fixture
def trouble(
    data: Path, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> tuple[set[str], list[Answer]]:
    """All secrets of a gateway that was used in every way and is closed again, and what it answered."""
    caplog.set_level(logging.DEBUG)
    with inside(settings_for(data, [engine.url])) as gateway:
        return _use(gateway, engine)


def _use(gateway: Inside, engine: FakeEngine) -> tuple[set[str], list[Answer]]:
    admin, weak = make_key(gateway, "admin"), make_key(gateway, "infer", models=["other"])
    begun = sign_in(gateway, admin)
    cookies = {cookie.partition(";")[0].partition("=")[2] for cookie in begun.cookies}
    asked = gateway.ask({"user": "ann"}, bearing(admin))
    token = asked.headers["x-starloop-feedback-token"]
    unknown = "sl-unknown-but-somebodys-secret"
    said = {"inference_id": asked.headers["x-starloop-inference-id"], "feedback_token": token}
    answers = []

    def call(method: str, path: str, body: object, headers: dict[str, str]) -> None:
        answers.append(gateway.call(method, path, body, headers))

    for headers in (
        bearing(admin),
        bearing(weak),
        bearing(unknown),
        {"authorization": f"Basic {admin}"},
        {"authorization": admin},
        carried(begun),
        guarded(begun),
        {**guarded(begun), "x-starloop-csrf": "wrong"},
        {"cookie": f"starloop-session={admin}"},
    ):
        call("POST", "/v1/chat/completions", {"model": "assistant", "messages": "none"}, headers)
        call("POST", "/v1/chat/completions", b"{broken", headers)
        call("GET", "/v1/models", None, headers)
        call("GET", "/v1/audit", None, headers)
        call("POST", "/v1/models/assistant/promote", {"version": "9.9", "reason": "why"}, headers)
        call("GET", f"/v1/inferences/{MISSING}", None, headers)
        call("GET", "/", None, headers)
        call("POST", "/v1/feedback", {**said, "rating": 2}, headers)
        call("POST", "/v1/feedback", {**said, "rating": 9}, headers)
        call("POST", "/v1/feedback", {**said, "inference_id": MISSING, "rating": 1}, headers)
        answers.append(gateway.ask({"user": "ann", "stream": True}, headers))
    for body in ({"key": admin}, {"key": unknown}, {"key": [admin]}, {"keys": admin}, {"key": admin * 9}):
        call("POST", "/session", body, {})
    engine.status = 500
    answers.append(gateway.ask(headers=bearing(admin)))
    gateway.gateway.engines.of("starter")[0].healthy = False
    answers.append(gateway.ask(headers=bearing(admin)))
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    call("GET", "/v1/inferences?limit=100", None, bearing(admin))
    own = {read_loop_key(gateway.settings.directory) or ""}
    for name in (TOKEN_KEY, SESSION_KEY):
        own.add((gateway.settings.directory / name).read_text().strip())
    return {admin, weak, unknown, token, *cookies, *own}, answers


def test_no_answer_tells_a_secret(trouble: tuple[set[str], list[Answer]]) -> None:
    secrets, answers = trouble
    assert len(secrets) == 9 and all(len(secret) > 20 for secret in secrets)
    assert {answer.status for answer in answers} >= {200, 201, 400, 401, 403, 404, 502, 503}
    for answer in answers:
        headers = {name: value for name, value in answer.headers.items() if name != "set-cookie"}
        told = answer.body.decode() + repr(headers)
        assert [secret for secret in secrets if secret in told] == []


def test_no_log_tells_a_secret(
    trouble: tuple[set[str], list[Answer]], caplog: pytest.LogCaptureFixture
) -> None:
    records = caplog.get_records("setup")
    logged = "\n".join(record.getMessage() + (record.exc_text or "") for record in records)
    assert "serves" in logged
    assert [secret for secret in trouble[0] if secret in logged] == []


def test_no_file_holds_a_secret_but_those_made_for_it(
    trouble: tuple[set[str], list[Answer]], data: Path
) -> None:
    files = [path for path in data.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {LOOP_KEY, TOKEN_KEY, SESSION_KEY, "starloop.sqlite"}
    for path in files:
        content = path.read_bytes()
        found = [secret for secret in trouble[0] if secret.encode() in content]
        assert len(found) == (1 if path.name in (LOOP_KEY, TOKEN_KEY, SESSION_KEY) else 0), path
        if found:
            assert path.stat().st_mode & 0o777 == 0o600
