"""Background requests say to the engine that they wait behind users', where it schedules by priority; nobody else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feedback import settings
from tests.server.inside import HELLO, Inside, inside, settings_for
from tests.server.openai_client import clients
from tests.server.test_batches import begin, ended, line
from tests.server.upstream import FakeEngine

ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HELLO,
    "/v1/completions": {"model": "assistant", "prompt": "Hello?"},
    "/v1/responses": {"model": "assistant", "input": "Hello?"},
    "/v1/messages": HELLO | {"max_tokens": 9},
}


def before(data: Path, engine: settings.Engine) -> settings.Settings:
    return msgspec.structs.replace(settings_for(data, []), engine=[engine])


@pytest.fixture
def managed(engine: FakeEngine, data: Path) -> Iterator[Inside]:
    """A gateway whose engine is one that Starloop starts."""
    with inside(before(data, settings.Engine(port=engine.port))) as running:
        yield running


def said(engine: FakeEngine) -> list[str | None]:
    """The priorities that completions came with."""
    return [one.headers.get("x-vllm-priority") for one in engine.completions()]


@pytest.mark.parametrize("path", ASKED)
def test_evaluation_and_replay_wait_behind_users_whatever_the_api(
    managed: Inside, engine: FakeEngine, path: str
) -> None:
    for purpose in ("evaluation", "replay", "production"):
        for body in (ASKED[path], ASKED[path] | {"stream": True}):
            answer = managed.call("POST", path, body, {"x-starloop-purpose": purpose})
            assert answer.status == 200, answer.body
    assert said(engine) == ["1", "1", "1", "1", None, None]


def test_a_batch_waits_behind_users(managed: Inside, engine: FakeEngine) -> None:
    with clients(managed) as made:
        client = made("none")
        assert (
            ended(managed, client, begin(client, [line(number) for number in range(3)]).id).status
            == "completed"
        )
    assert said(engine) == ["1"] * 3


@pytest.mark.parametrize("path", ASKED)
def test_no_client_can_say_where_it_stands_in_the_queue(
    managed: Inside, engine: FakeEngine, path: str
) -> None:
    headers = {"x-vllm-priority": "-9"}
    for purpose in ("production", "evaluation"):
        asked = ASKED[path] | {"priority": -9}
        assert managed.call("POST", path, asked, headers | {"x-starloop-purpose": purpose}).status == 200
    assert said(engine) == [None, "1"]
    assert [one.body.get("priority") for one in engine.completions()] == [None, None]


@pytest.mark.parametrize(("has_it", "sent"), [(False, None), (True, "1")], ids=["unknown", "told"])
def test_an_engine_that_runs_elsewhere_hears_of_it_only_where_it_is_said_to_schedule_so(
    engine: FakeEngine, data: Path, has_it: bool, sent: str | None
) -> None:
    with inside(before(data, settings.Engine(urls=[engine.url], priority=has_it))) as gateway:
        assert gateway.ask(headers={"x-starloop-purpose": "evaluation"}).status == 200
    assert said(engine) == [sent]
