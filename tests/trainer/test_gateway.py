"""How the loop talks to the server: what it sends, what it waits for, what it takes as said."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from feedback.errors import ConflictError, NotAllowedError, NotFoundError, StarloopError, UnavailableError
from feedback.settings import Server, Settings
from trainer.gateway import Gateway, open_gateway

COMPLETION = {
    "choices": [{"message": {"role": "assistant", "content": "blue"}, "finish_reason": "stop"}],
    "usage": {"completion_tokens": 3},
}


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


def gateway(respond: Callable[[httpx.Request], httpx.Response], clock: Clock | None = None) -> Gateway:
    clock = clock or Clock()
    return Gateway(
        "http://starloop",
        "sl-secret",
        transport=httpx.MockTransport(respond),
        clock=clock,
        pause=clock.pause,
    )


def ask(client: Gateway) -> str:
    return client.complete("assistant@1.0", [{"role": "user", "content": "?"}], 16).text


def test_a_version_is_asked_greedily_as_an_evaluation_with_the_loops_key() -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=COMPLETION)

    answer = gateway(respond).complete("assistant@1.0", [{"role": "user", "content": "colour?"}], 16)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("blue", "stop", 3)
    assert json.loads(seen[0].content) == {
        "model": "assistant@1.0",
        "messages": [{"role": "user", "content": "colour?"}],
        "temperature": 0,
        "max_tokens": 16,
    }
    assert seen[0].headers["authorization"] == "Bearer sl-secret"
    assert seen[0].headers["x-starloop-purpose"] == "evaluation"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_is_away_for_a_moment_is_asked_again(status: int) -> None:
    answers = [httpx.Response(status, headers={"retry-after": "2"}), httpx.Response(200, json=COMPLETION)]
    clock = Clock()
    assert ask(gateway(lambda _: answers.pop(0), clock)) == "blue"
    assert clock.now > 0


def test_a_refused_connection_is_tried_again_until_patience_ends() -> None:
    attempts = 0

    def respond(request: httpx.Request) -> httpx.Response:
        nonlocal attempts
        attempts += 1
        raise httpx.ConnectError("refused", request=request)

    clock = Clock()
    with pytest.raises(UnavailableError, match="is `starloop serve` up"):
        ask(gateway(respond, clock))
    assert attempts > 5 and 50 < clock.now <= 60


def test_a_version_that_the_server_has_not_heard_of_yet_is_asked_for_a_while() -> None:
    unknown = httpx.Response(404, json={"error": {"message": "no such version"}})
    answers = [unknown, unknown, httpx.Response(200, json=COMPLETION)]
    assert ask(gateway(lambda _: answers.pop(0))) == "blue"
    with pytest.raises(NotFoundError, match="no such version"):
        ask(gateway(lambda _: unknown))


def test_a_prompt_that_the_server_refuses_is_an_answer_that_passes_nothing() -> None:
    too_long = httpx.Response(400, json={"error": {"message": "the prompt is too long"}})
    answer = gateway(lambda _: too_long).complete("assistant@1.0", [], 16)
    assert answer.text == ""
    assert answer.finish_reason == "refused: the prompt is too long"


def test_a_key_that_does_not_reach_is_said_at_once() -> None:
    clock = Clock()
    with pytest.raises(NotAllowedError):
        ask(gateway(lambda _: httpx.Response(403, json={"error": {"message": "scope"}}), clock))
    assert clock.now == 0


def test_an_empty_answer_is_an_empty_text() -> None:
    silent = {"choices": [{"message": {"content": None}, "finish_reason": "stop"}], "usage": None}
    assert ask(gateway(lambda _: httpx.Response(200, json=silent))) == ""


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        ([1], "object"),
        ({"choices": [None]}, r"\$\.choices\[0\]"),
        ({"choices": "x"}, r"\$\.choices"),
        ({"choices": [{"message": "blue"}]}, r"\$\.choices\[0\]\.message"),
        ({"choices": [{"message": {"content": "blue"}}], "usage": [3]}, r"\$\.usage"),
    ],
)
def test_an_answer_of_another_form_is_told_with_the_place_that_is_wrong(sent: object, place: str) -> None:
    client = gateway(lambda _: httpx.Response(200, json=sent))
    with pytest.raises(
        StarloopError, match=rf"asking assistant@1\.0: what came is no chat completion.*{place}"
    ):
        ask(client)
    with pytest.raises(StarloopError, match="no chat completion"):
        client.sample("assistant@1.0", [], 2, 0.7, 16)


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"choices": [{"message": {"content": "\xff"}}]}'], ids=["html", "bytes"]
)
def test_an_answer_that_is_no_json_is_told(body: bytes) -> None:
    with pytest.raises(StarloopError, match="no chat completion"):
        ask(gateway(lambda _: httpx.Response(200, content=body)))


def test_a_promotion_names_its_cycle_and_a_conflict_is_said() -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(409, json={"error": {"message": "the champion has moved"}})

    with pytest.raises(ConflictError, match="the champion has moved"):
        gateway(respond).promote("assistant", "1.1", "better", "cycle-1", "base")
    assert seen[0].url.path == "/v1/models/assistant/promote"
    assert json.loads(seen[0].content) == {
        "version": "1.1",
        "reason": "better",
        "cycle_id": "cycle-1",
        "instead_of": "base",
    }


def test_closing_ends_a_call_that_waits() -> None:
    client = Gateway(
        "http://starloop", None, transport=httpx.MockTransport(lambda _: httpx.Response(503)), patience=3600
    )
    client.close()
    with pytest.raises((UnavailableError, RuntimeError)):
        ask(client)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_the_server_is_reached_where_it_listens(host: str, url: str) -> None:
    client = open_gateway(Settings(server=Server(host=host)), None)
    assert client.url == url
    client.close()


def test_a_rollback_whose_answer_is_lost_goes_back_once() -> None:
    champions = ["base", "1.0", "1.1"]

    def respond(request: httpx.Request) -> httpx.Response:
        wanted, before = json.loads(request.content)["version"], champions[-2]
        if wanted != before:
            return httpx.Response(409, json={"error": {"message": f"a rollback leads to {before} now"}})
        champions.pop()
        raise httpx.ReadError("the server died before it could answer")

    with pytest.raises(UnavailableError, match="the server died"):
        gateway(respond).roll_back("assistant", "1.0", "worse")
    with pytest.raises(ConflictError, match="leads to base now"):
        gateway(respond).roll_back("assistant", "1.0", "worse")
    assert champions == ["base", "1.0"]
