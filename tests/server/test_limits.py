"""Limits of keys, as clients meet them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.access.keys import create_key
from feedback.access.limits import Limits, parse_limits
from feedback.storage.database import Database
from tests.server.inside import HELLO, Answer, Inside, inside, settings_for
from tests.server.served import served
from tests.server.test_access import bearing, make_key
from tests.server.upstream import FakeEngine, fake_engine

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limited(engine: FakeEngine, data: Path, clock: Clock) -> Iterator[Inside]:
    """A gateway whose clock goes when the test says so."""
    with inside(settings_for(data, [engine.url]), clock) as running:
        yield running


def key_with(gateway: Inside, limits: str, *scopes: str) -> dict[str, str]:
    with gateway.gateway.database.session() as session:
        _, secret = create_key(session, scopes or ("infer",), "shop", None, START, parse_limits(limits))
        session.commit()
    gateway.gateway.live.refresh()
    return bearing(secret)


def told(answer: Answer, *words: str) -> int:
    """The refusal is OpenAI's and says what is told; its `Retry-After`."""
    assert answer.status == 429, answer.body
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    for word in words:
        assert word in error["message"]
    return int(answer.headers["retry-after"])


def test_a_request_over_the_limit_is_refused_and_recorded_and_costs_no_engine(
    limited: Inside, engine: FakeEngine, clock: Clock
) -> None:
    key = key_with(limited, "rpm=2")
    admin = bearing(make_key(limited, "admin"))
    assert [limited.ask(headers=key).status for _ in range(2)] == [200, 200]
    clock.pass_(20)
    answer = limited.ask(headers=key)
    assert told(answer, "2 requests a minute", "come again in 40 s") == 40
    assert len(engine.completions()) == 2
    limited.wait_for(lambda: limited.gateway.journal.backlog() == 0)
    path = f"/v1/inferences/{answer.headers['x-starloop-inference-id']}"
    record = limited.call("GET", path, None, admin).json
    assert (record["status"], "2 requests a minute" in record["error"]) == (429, True)
    clock.pass_(40)
    assert limited.ask(headers=key).status == 200


def test_tokens_are_those_that_are_recorded(limited: Inside, engine: FakeEngine, clock: Clock) -> None:
    key = key_with(limited, "tpm=10")  # the stand-in's answers have 7 + 2 tokens
    assert limited.ask(headers=key).status == 200
    assert limited.ask({"stream": True}, key).status == 200
    assert told(limited.ask(headers=key), "10 tokens a minute", "has used 1") == 60
    assert told(limited.ask({"stream": True}, key)) == 60
    clock.pass_(60)
    assert limited.ask(headers=key).status == 200


def test_who_leaves_a_stream_before_its_usage_has_used_what_came(
    limited: Inside, engine: FakeEngine, clock: Clock
) -> None:
    key = key_with(limited, "tpm=2")
    engine.pause, engine.pieces = 0.05, 100
    body = {**HELLO, "stream": True}
    sent = limited.send(
        "POST", "/v1/chat/completions", body, key, leaves=lambda told: told.body.count(b"data: ") > 3
    )
    limited.run(sent)
    told(limited.ask(headers=key), "2 tokens a minute")


def test_as_many_at_a_time_as_the_key_may_and_the_place_is_free_again_whatever_happened(
    limited: Inside, engine: FakeEngine
) -> None:
    key = key_with(limited, "concurrent=2")

    async def three(body: dict[str, Any], leaves: Callable[[Answer], bool] | None = None) -> list[int]:
        asked = [
            limited.send("POST", "/v1/chat/completions", {**HELLO, **body}, key, leaves=leaves)
            for _ in range(3)
        ]
        return sorted(answer.status for answer in await asyncio.gather(*asked))

    engine.delay = 0.2
    assert limited.run(three({})) == [200, 200, 429]
    assert limited.run(three({"stream": True})) == [200, 200, 429]
    engine.held, before = True, len(engine.completions())
    assert (
        limited.run(three({}, lambda _: len(engine.completions()) == before + 2))[2] == 429
    )  # the others' clients left
    engine.held = False
    engine.status = 500
    assert limited.run(three({})) == [429, 502, 502]
    engine.status, engine.die_after = 200, 1
    assert limited.run(three({"stream": True})) == [200, 200, 429]
    engine.die_after = None
    assert limited.run(three({})) == [200, 200, 429]


def test_the_other_routes_count_as_requests_too(limited: Inside, clock: Clock) -> None:
    key = key_with(limited, "rpm=3,concurrent=1,tpm=1", "infer", "feedback")
    asked = limited.ask(headers=key)
    opinion = {"inference_id": asked.headers["x-starloop-inference-id"], "rating": 4}
    assert limited.call("POST", "/v1/feedback", opinion, key).status == 201
    assert limited.call("GET", "/v1/models", None, key).status == 200
    assert told(limited.call("GET", "/v1/models", None, key), "3 requests a minute") == 60
    assert told(limited.call("POST", "/v1/feedback", opinion, key)) == 60
    token = {**opinion, "feedback_token": asked.headers["x-starloop-feedback-token"]}
    assert (
        limited.call("POST", "/v1/feedback", token).status == 201
    )  # no key: the token's own limit is its inference
    assert limited.call("GET", "/health/live", None, key).status == 200
    clock.pass_(60)
    assert limited.call("GET", "/v1/models", None, key).status == 200


def test_a_key_without_limits_touches_no_counter(limited: Inside) -> None:
    free = bearing(make_key(limited, "infer", "feedback"))
    assert limited.ask(headers=free).status == 200
    table = limited.settings.directory / "limits" / "table"
    assert not any(table.read_bytes())


def test_workers_hold_one_key_to_one_limit(data: Path, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{data / 'starloop.sqlite'}")
    with database.session() as session:
        _, secret = create_key(session, ["infer"], "shop", None, START, Limits(rpm=20))
        session.commit()
    database.close()
    with fake_engine() as engine, served(tmp_path, [engine.url], workers=2) as gateway:
        assert gateway.directory == data

        def ask(_: int) -> int:
            return httpx.post(
                f"{gateway.address}/v1/chat/completions", json=HELLO, headers=bearing(secret), timeout=30
            ).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = Counter(pool.map(ask, range(60)))
        assert statuses == {200: 20, 429: 40}
        assert len(engine.completions()) == 20


# -- the time limit


def test_a_key_works_until_the_moment_it_expires_and_then_says_when_that_was(
    limited: Inside, engine: FakeEngine, clock: Clock
) -> None:
    ends = START + timedelta(days=90)
    with limited.gateway.database.session() as session:
        _, secret = create_key(session, ["infer", "feedback"], "shop", None, START, expires=ends)
        session.commit()
    limited.gateway.live.refresh()
    key = bearing(secret)
    clock.now = ends - timedelta(microseconds=1)
    asked = limited.ask(headers=key)
    assert asked.status == 200
    clock.now = ends
    opinion = {"inference_id": asked.headers["x-starloop-inference-id"], "rating": 4}
    for refused in (limited.ask(headers=key), limited.call("POST", "/v1/feedback", opinion, key)):
        assert refused.status == 401
        assert refused.json["error"]["code"] == "invalid_api_key"
        assert "expired at 2026-04-01 12:00:00 UTC" in refused.json["error"]["message"]
    assert limited.ask().status == 401  # and the door stays shut
    assert len(engine.completions()) == 1
