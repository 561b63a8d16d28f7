"""Whatever is sent, the answer is a clear error in OpenAI's form and nothing is half done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.errors import StorageError
from feedback.settings import Server
from server.app import create_app
from tests.server.inside import HELLO, Answer, Inside, inside, settings_for
from tests.server.upstream import FakeEngine

ID = "019b7700-0000-7000-8000-000000000000"
BODIES = {
    "empty": b"",
    "blank": b"  \n",
    "cut short": b'{"model": "assistant", "mess',
    "no JSON": b"model=assistant",
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"7",
    "trailing comma": b'{"model": "assistant",}',
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "assistant"}'.encode("utf-16"),
    "too deep": b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "wrong field": b'{"nonsense": true}',
}
POSTS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/feedback",
    "/v1/models/assistant/promote",
    "/v1/models/assistant/rollback",
    f"/v1/failures/{ID}/resolve",
    "/v1/cases/draw",
    f"/v1/cases/{ID}/confirm",
    "/v1/cycles",
]


def assert_told(answer: Answer, *statuses: int) -> str:
    """The answer is an OpenAI error object with one of the statuses; its message."""
    assert answer.status in statuses, (answer.status, answer.body)
    assert answer.headers["content-type"] == "application/json"
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"]
    return str(error["message"])


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none_is_refused_everywhere(gateway: Inside, engine: FakeEngine, name: str) -> None:
    for path in POSTS:
        assert_told(gateway.call("POST", path, BODIES[name]), 400)
    assert engine.completions() == []
    assert gateway.gateway.journal.last == 0


def test_malformed_json_is_told_where(gateway: Inside) -> None:
    message = assert_told(gateway.call("POST", "/v1/chat/completions", BODIES["trailing comma"]), 400)
    assert "byte 22" in message
    assert "byte 11" in assert_told(gateway.call("POST", "/v1/feedback", BODIES["not UTF-8"]), 400)


def test_a_body_over_the_limit_is_413_and_one_at_the_limit_is_answered(
    engine: FakeEngine, data: Path
) -> None:
    limit = 10_000
    with inside(settings_for(data, [engine.url], server=Server(body_limit=limit))) as gateway:
        empty = len(json.dumps({**HELLO, "pad": ""}))
        assert gateway.ask({"pad": "x" * (limit - empty)}).status == 200
        told = gateway.ask({"pad": "x" * (limit - empty + 1)})
        assert "body_limit" in assert_told(told, 413)
        lying = {"content-length": "3"}
        assert_told(gateway.ask({"pad": "x" * limit}, lying), 413)
        assert_told(gateway.call("POST", "/v1/feedback", b"x" * (limit + 1)), 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/assistants", 404),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/nothing.js", 404),
        ("GET", "/schema/swagger", 404),
        ("PUT", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models/assistant", 400),
        ("PUT", "/v1/feedback", 405),
        ("GET", "/v1/datasets/x", 400),
        ("GET", f"/v1/datasets/{ID}", 404),
        ("GET", f"/v1/datasets/{ID}/export", 404),
        ("GET", f"/v1/datasets/{ID}/export?format=xml", 400),
        ("GET", f"/v1/cycles/{ID}", 404),
        ("GET", f"/v1/cycles/{ID}/metrics", 404),
        ("POST", f"/v1/cycles/{ID}/cancel", 404),
        ("POST", "/v1/cycles/x/cancel", 400),
        ("POST", f"/v1/cases/{ID}/drop", 404),
        ("GET", "/v1/failures?state=lost", 400),
        ("GET", "/v1/cases?suite=silver", 400),
        ("GET", "/v1/cycles?limit=-1", 400),
    ],
)
def test_an_address_or_method_that_there_is_not(gateway: Inside, method: str, path: str, status: int) -> None:
    answer = gateway.call(method, path)
    assert_told(answer, status)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/models/assistant/promote", {"version": "1.0"}, "reason"),
        ("/v1/models/assistant/promote", {"version": 1.0, "reason": "x"}, "version"),
        ("/v1/models/assistant/promote", {"version": "1.0", "reason": ""}, "reason"),
        ("/v1/models/assistant/rollback", {"reason": "x", "why": "y"}, "why"),
        (f"/v1/failures/{ID}/resolve", {"action": "forget"}, "action"),
        ("/v1/cases/draw", {"model": "assistant", "count": 0}, "count"),
        ("/v1/cases/draw", {"model": "assistant", "count": "5"}, "count"),
        (f"/v1/cases/{ID}/confirm", {"answer": ""}, "answer"),
        ("/v1/cycles", {"model": "assistant", "mode": "wild"}, "mode"),
        ("/v1/cycles", {"model": "assistant", "guards_off": ["gate"]}, "guards_off[0]"),
        ("/v1/cycles", {"model": "assistant", "guards_of": []}, "guards_of"),
    ],
)
def test_a_wrong_field_is_named(gateway: Inside, path: str, body: dict[str, Any], param: str) -> None:
    answer = gateway.call("POST", path, body)
    assert_told(answer, 400)
    assert answer.json["error"]["param"] == param


@pytest.mark.parametrize("path", ["/v1/failures?state=lost", "/v1/cases?state=lost"])
def test_a_wrong_query_parameter_is_named_as_it_was_asked(gateway: Inside, path: str) -> None:
    assert gateway.call("GET", path).json["error"]["param"] == "state"


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_bodies = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["assistant", "assistant@base", "nobody"]) | _values,
        "messages": st.lists(st.fixed_dictionaries({"role": st.text(max_size=5), "content": _values}))
        | _values,
        "stream": st.booleans() | _values,
        "stream_options": _values,
        "metadata": _values,
        "user": _values,
        "store": _values,
        "priority": _values,
    },
)


@pytest.mark.parametrize("name", ["n", "best_of"])
@pytest.mark.parametrize("number", [0, -1, 129, 16384, 1.5, "2"])
def test_a_request_cannot_ask_for_any_number_of_answers(gateway: Inside, name: str, number: object) -> None:
    answer = gateway.ask({name: number})
    assert name in assert_told(answer, 400)
    assert answer.json["error"]["param"] == name


def test_an_id_of_the_far_future_is_not_found(gateway: Inside) -> None:
    body = {"inference_id": "ffffffff-ffff-7fff-bfff-ffffffffffff", "rating": 1}
    assert_told(gateway.call("POST", "/v1/feedback", body), 404)


@pytest.mark.parametrize("key", ["", "%00", "a%22b", "a%5Cb"])
def test_a_metadata_key_that_no_database_takes_is_refused(gateway: Inside, key: str) -> None:
    assert_told(gateway.call("GET", f"/v1/inferences?metadata.{key}=x"), 400)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=_bodies)
def test_no_body_makes_the_gateway_fail(gateway: Inside, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    for path in ("/v1/chat/completions", "/v1/feedback"):
        answer = gateway.call("POST", path, data)
        if answer.status != 200:
            assert_told(answer, 400, 404)


def test_header_tricks_change_nothing(gateway: Inside, engine: FakeEngine) -> None:
    answer = gateway.ask({"user": "a\r\nx-evil: 1"}, {"x-starloop-conversation": "c\u00e9"})
    assert answer.status == 200
    assert "x-evil" not in engine.completions()[0].headers


def test_a_data_directory_that_cannot_be_written_stops_the_start(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    gateway = create_app(settings_for(tmp_path / "file" / "data", [engine.url])).state.gateway
    with pytest.raises(StorageError, match="data directory cannot be written"):
        gateway._open_storage()
