from __future__ import annotations

import json
from typing import Any

import pytest

from server.answers import WrongAnswerError
from server.events import Events

ASKED = "assistant@1.0"
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": ASKED, **fields}).encode() + b"\n\n"


def delta(text: str | None = None, index: int = 0, reason: str | None = None, **more: Any) -> bytes:
    said = {} if text is None else {"content": text}
    choice = {"index": index, "delta": {**said, **more}, "finish_reason": reason}
    return event(object="chat.completion.chunk", choices=[choice])


USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


def test_events_pass_whole_however_they_are_cut() -> None:
    stream = delta("Hel", role="assistant") + delta("lo — é") + delta(reason="stop") + DONE
    for size in range(1, 90, 7):
        events = Events(shows_usage=False, asked=ASKED)
        passed = [events.feed(stream[start : start + size]) for start in range(0, len(stream), size)]
        assert b"".join(passed) == stream.removesuffix(DONE)
        assert all(piece == b"" or piece.endswith(b"\n\n") for piece in passed)
        assert events.done


def test_a_usage_event_passes_only_when_it_was_asked_for() -> None:
    hidden, shown = Events(False, ASKED), Events(True, ASKED)
    stream = delta("Hi") + USAGE + DONE
    assert hidden.feed(stream) == delta("Hi")
    assert shown.feed(stream) == delta("Hi") + USAGE
    for events in (hidden, shown):
        _, facts, _ = events.assemble()
        assert (facts.prompt_tokens, facts.completion_tokens) == (3, 2)


def test_words_about_usage_and_done_in_an_answer_are_only_words() -> None:
    events = Events(False, ASKED)
    stream = delta('"usage" [DONE] data: [DONE]')
    assert events.feed(stream) == stream
    assert not events.done


def test_the_end_is_held_back_and_noticed() -> None:
    events = Events(False, ASKED)
    assert events.feed(delta("Hi") + b"data: [DO") == delta("Hi")
    assert not events.done
    assert events.feed(b"NE]\n\n") == b""
    assert events.done


def test_a_stream_amounts_to_the_plain_answer() -> None:
    events = Events(False, ASKED)
    events.feed(delta("Hel", role="assistant") + delta("lo", index=1, role="assistant"))
    events.feed(delta("lo") + delta(reason="stop") + delta(" you", index=1, reason="length") + USAGE + DONE)
    text, facts, failed = events.assemble()
    assert failed is None
    whole = json.loads(text or "")
    assert whole["object"] == "chat.completion"
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["Hello", "lo you"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["stop", "length"]
    assert (facts.output, facts.finish_reason) == ("Hello", "stop")


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    def call(**fields: Any) -> bytes:
        return delta(tool_calls=[{"index": 0, **fields}])

    events = Events(False, ASKED)
    events.feed(call(id="call-1", type="function", function={"name": "look_up", "arguments": ""}))
    events.feed(call(function={"arguments": '{"order"'}) + call(function={"arguments": ": 7}"}))
    events.feed(
        delta(tool_calls=[{"index": 1, "id": "call-2", "function": {"name": "x", "arguments": "{}"}}])
    )
    events.feed(delta(reason="tool_calls") + DONE)
    text, facts, _ = events.assemble()
    calls = json.loads(text or "")["choices"][0]["message"]["tool_calls"]
    assert calls[0]["id"] == "call-1"
    assert calls[0]["function"] == {"name": "look_up", "arguments": '{"order": 7}'}
    assert calls[1]["function"]["name"] == "x"
    assert json.loads(facts.output or "") == calls  # what a model says by calling tools is not nothing


def test_texts_and_logprobs_of_completions_are_joined() -> None:
    events = Events(False, ASKED)
    for text, place in (("Once", -0.5), (" upon", -1.5)):
        choice = {"index": 0, "text": text, "logprobs": {"tokens": [text], "token_logprobs": [place]}}
        events.feed(event(object="text_completion", choices=[choice]))
    text, facts, _ = events.assemble()
    choice = json.loads(text or "")["choices"][0]
    assert facts.output == "Once upon"
    assert choice["logprobs"] == {"tokens": ["Once", " upon"], "token_logprobs": [-0.5, -1.5]}


def test_logprobs_of_a_chat_are_joined_although_its_first_event_has_none() -> None:
    events = Events(False, ASKED)
    parts: list[tuple[dict[str, str], Any]] = [({"role": "assistant", "content": ""}, None)]
    parts += [({"content": text}, {"content": [{"token": text, "logprob": -0.5}]}) for text in ("Hi", "!")]
    for said, logprobs in parts:
        events.feed(event(choices=[{"index": 0, "delta": said, "logprobs": logprobs}]))
    choice = json.loads(events.assemble()[0] or "")["choices"][0]
    assert choice["message"]["content"] == "Hi!"
    assert [one["token"] for one in choice["logprobs"]["content"]] == ["Hi", "!"]


def test_an_error_among_the_events_passes_and_is_kept() -> None:
    events = Events(False, ASKED)
    failure = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    assert events.feed(delta("Hi") + failure + DONE) == delta("Hi") + failure
    _, facts, failed = events.assemble()
    assert failed == "out of memory"
    assert facts.output == "Hi"


def test_another_model_than_the_one_asked_is_noticed_before_a_word_of_it_passes() -> None:
    events = Events(False, "assistant@1.1")
    with pytest.raises(WrongAnswerError, match=r"assistant@1\.0"):
        events.feed(delta("Hi"))


def test_a_stream_that_said_nothing_amounts_to_nothing() -> None:
    events = Events(False, ASKED)
    assert events.feed(b": ping\n\n") == b": ping\n\n"
    assert events.assemble()[0] is None
