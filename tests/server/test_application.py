"""The short way to the completion routes answers as Litestar's own would."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar

from feedback.settings import Settings, Storage
from server.app import create_app
from server.application import Application
from tests.server.inside import HELLO, Answer, Inside
from tests.server.upstream import FakeEngine

_CHAT = "/v1/chat/completions"


def _told(answer: Answer) -> tuple[int, Any, set[str]]:
    """What does not differ from one request to the next."""
    body = answer.json
    for name in ("id", "created"):
        body.pop(name, None)
    return answer.status, body, set(answer.headers)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (HELLO, {}, 200),
        ({"model": "nobody", "messages": HELLO["messages"]}, {}, 404),
        ({"model": "assistant"}, {}, 400),
        (HELLO, {"x-forwarded-for": "10.0.0.9"}, 401),
        ({**HELLO, "filler": "x" * 5_000_000}, {}, 413),
    ],
)
def test_both_ways_answer_alike(
    gateway: Inside, monkeypatch: pytest.MonkeyPatch, body: Any, headers: dict[str, str], status: int
) -> None:
    short = gateway.call("POST", _CHAT, body, headers)
    monkeypatch.setattr(Application, "__call__", Litestar.__call__)
    long = gateway.call("POST", _CHAT, body, headers)

    assert short.status == status
    assert _told(short) == _told(long)


def test_the_completion_routes_and_no_others_are_reached_directly(gateway: Inside) -> None:
    app = gateway.app
    assert isinstance(app, Application)

    paths = {_CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"}
    paths |= {f"/together{path}" for path in (_CHAT, "/v1/completions", "/v1/embeddings")}
    assert set(app.direct) == {("POST", path) for path in paths}


def test_another_method_is_refused_with_those_that_are_allowed(gateway: Inside) -> None:
    answer = gateway.call("PUT", _CHAT)

    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST", "OPTIONS"}


def test_a_failure_nobody_foresaw_is_told_and_nothing_of_it(
    gateway: Inside, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model: str) -> bytes:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("server.body.Body.forwarded", lambda _body, model: fail(model))
    answer = gateway.call("POST", _CHAT, HELLO)

    assert answer.status == 500
    assert b"secret" not in answer.body


def test_a_life_that_cannot_begin_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    application = create_app(Settings(storage=Storage(directory=str(tmp_path))))
    told: list[Any] = []

    async def live() -> None:
        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            told.append(message)

        with pytest.raises(BaseException):  # noqa: B017 - Litestar's own, whatever it is packed in
            await application({"type": "lifespan"}, receive, send)  # type: ignore[arg-type,typeddict-item]

    asyncio.run(live())
    assert told[0]["type"] == "lifespan.startup.failed"
    assert "no journal can be written there" in told[0]["message"] and "\n" not in told[0]["message"]
