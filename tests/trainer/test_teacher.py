"""How a teacher is asked: what it is sent, how long it is waited for, and where its key goes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx
import pytest

from feedback.errors import NotAllowedError, SettingsError, StarloopError, UnavailableError
from feedback.settings import Teacher as Settings
from trainer.teacher import Teacher, clock_month

KEY = "sk-very-secret"
PROMPT = [{"role": "user", "content": "colour?"}]
REPLY = {
    "choices": [{"message": {"content": " blue "}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 500},
}


class Away:
    """Answers with these, one after the other, and remembers how long was waited."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.seen: list[httpx.Request] = []
        self.waited: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pause(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return False


def teacher(respond: Callable[[httpx.Request], httpx.Response], **settings: object) -> Teacher:
    plain = {"url": "http://teacher/v1/", "model": "big", "price_in": 2.0, "price_out": 10.0, "retries": 2}
    pause = respond.pause if isinstance(respond, Away) else lambda _: False
    return Teacher(
        Settings(**(plain | settings)),  # type: ignore[arg-type]
        KEY,
        transport=httpx.MockTransport(respond),
        pause=pause,
    )


def ok() -> httpx.Response:
    return httpx.Response(200, json=REPLY)


def test_it_is_asked_greedily_with_its_key_in_one_header() -> None:
    away = Away(ok())
    one = teacher(away)
    reply = one.ask(PROMPT)
    assert (reply.text, reply.tokens_in, reply.tokens_out) == ("blue", 1000, 500)
    assert one.cost(reply) == pytest.approx(0.007)
    (request,) = away.seen
    assert str(request.url) == "http://teacher/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}" and KEY.encode() not in request.content
    assert json.loads(request.content)["temperature"] == 0


def test_a_busy_teacher_is_asked_again_when_it_says() -> None:
    away = Away(httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(503), ok())
    assert teacher(away).ask(PROMPT).text == "blue"
    assert away.waited == [7.0, 2.0]


def test_a_teacher_that_never_answers_is_away() -> None:
    away = Away(*[httpx.ReadTimeout("slow") for _ in range(3)])
    with pytest.raises(UnavailableError, match="no answer within 60 s"):
        teacher(away).ask(PROMPT)
    assert len(away.seen) == 3


def test_a_refused_key_names_the_variable_and_is_not_asked_again() -> None:
    away = Away(httpx.Response(401, json={"error": {"message": f"bad key {KEY}"}}))
    with pytest.raises(NotAllowedError, match="STARLOOP_TEACHER_KEY") as caught:
        teacher(away).ask(PROMPT)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(400, json={"error": {"message": f"no model for {KEY}"}}),
        httpx.Response(200, text=f"<html>{KEY}</html>"),
        httpx.Response(500, text=KEY),
        httpx.ConnectError(f"no route with {KEY}"),
    ],
)
def test_the_key_stands_in_no_error_and_no_log(
    answer: httpx.Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(StarloopError) as caught:
        teacher(Away(answer), retries=0).ask(PROMPT)
    assert KEY not in str(caught.value) and KEY not in caplog.text
    assert KEY not in repr(caught.value.__cause__)


def test_a_teacher_without_usage_is_estimated() -> None:
    away = Away(httpx.Response(200, json={"choices": REPLY["choices"]}))
    reply = teacher(away).ask(PROMPT)
    assert reply.tokens_in > 0 and reply.tokens_out > 0


@pytest.mark.parametrize("count", [-5, 0, 1e300, 10**40, True, "9", None])
def test_a_count_that_cannot_be_is_estimated_instead(count: object) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count}
    reply = teacher(lambda _: httpx.Response(200, json=REPLY | {"usage": usage})).ask(PROMPT)
    assert (reply.tokens_in, reply.tokens_out) == (10, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"null",
        b"[" * 200_000,
        b'{"choices": [{"message": {"content": ["blue"]}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    ],
    ids=["nothing", "deep", "no text", "half a character"],
)
def test_what_is_no_answer_is_told(content: bytes) -> None:
    with pytest.raises(StarloopError, match="sent no chat completion"):
        teacher(lambda _: httpx.Response(200, content=content)).ask(PROMPT)


class Endless(httpx.SyncByteStream):
    def __init__(self, piece: bytes, pause: float) -> None:
        self.piece, self.pause = piece, pause

    def __iter__(self) -> Iterator[bytes]:
        while True:
            time.sleep(self.pause)
            yield self.piece


def test_an_answer_that_does_not_end_is_left_in_time_and_before_it_fills_the_memory() -> None:
    dripping = teacher(
        lambda _: httpx.Response(200, stream=Endless(b" ", 0.05)), timeout_seconds=0.2, retries=0
    )
    with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
        dripping.ask(PROMPT)
    with pytest.raises(StarloopError, match="more than 16 MB"):
        teacher(lambda _: httpx.Response(200, stream=Endless(bytes(1 << 20), 0))).ask(PROMPT)


def test_a_broken_encoding_and_a_wait_that_is_none_are_asked_again() -> None:
    broken = httpx.Response(
        200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip at all")
    )
    away = Away(broken, httpx.Response(429, headers={"retry-after": "nan"}), ok())
    assert teacher(away).ask(PROMPT).text == "blue"
    assert away.waited == [1.0, 2.0]


def test_a_teacher_without_a_model_is_wrong_configuration() -> None:
    with pytest.raises(SettingsError, match=r"teacher\.model"):
        Teacher(Settings(url="http://teacher/v1"), None)


def test_a_budget_is_a_calendar_months() -> None:
    now = datetime(2026, 3, 17, 13, 5, 9, 250_000, tzinfo=UTC).timestamp()
    assert clock_month(now) == datetime(2026, 3, 1, tzinfo=UTC).timestamp()


def test_anthropics_api_is_asked_in_its_own_words() -> None:
    reply = {
        "content": [{"type": "text", "text": "bl"}, {"type": "text", "text": "ue "}],
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": 1000, "output_tokens": 500},
    }
    away = Away(httpx.Response(529, headers={"retry-after": "3"}), httpx.Response(200, json=reply))
    one = teacher(away, kind="anthropic")
    told = one.ask([{"role": "system", "content": "Be brief."}, *PROMPT])
    assert (told.text, told.finish_reason, one.cost(told)) == ("blue", "length", pytest.approx(0.007))
    request = away.seen[-1]
    assert str(request.url) == "http://teacher/v1/messages" and away.waited == [3.0]
    assert request.headers["x-api-key"] == KEY and "authorization" not in request.headers
    body = json.loads(request.content)
    assert body["system"] == "Be brief." and body["messages"] == PROMPT
    assert body["max_tokens"] == 1024 and body["temperature"] == 0


def test_a_parameter_that_it_refuses_is_left_out_from_then_on_and_a_words_mention_is_none() -> None:
    unsupported = "Unsupported value: 'temperature' does not support 0 with this model."
    away = Away(httpx.Response(400, json={"error": {"message": unsupported}}), ok(), ok())
    one = teacher(away)
    assert one.ask(PROMPT).text == one.ask(PROMPT).text == "blue"
    assert ["temperature" in json.loads(request.content) for request in away.seen] == [True, False, False]
    weather = Away(httpx.Response(400, json={"error": {"message": "no answer about the temperature today"}}))
    with pytest.raises(StarloopError, match="temperature today"):
        teacher(weather).ask(PROMPT)
    assert len(weather.seen) == 1
