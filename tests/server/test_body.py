from __future__ import annotations

import json
from typing import Any

import pytest

from feedback.errors import BadFieldError, BadInputError
from server.body import Body, read_chat, read_completion


def chat(**fields: Any) -> Body:
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}], **fields}
    return read_chat(json.dumps(body).encode())


def forwarded(body: Body, model: str = "assistant@1.0") -> Any:
    return json.loads(body.forwarded(model))


def test_what_the_gateway_does_not_know_is_forwarded_as_it_came() -> None:
    fields = {
        "temperature": 0.25,
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}},
        },
        "logprobs": True,
        "top_logprobs": 3,
        "n": 2,
        "stop": ["\n", "é"],
        "seed": 2**62,
        "guided_choice": ["a", "b"],
    }
    sent = forwarded(chat(**fields))
    assert {name: sent[name] for name in fields} == fields


def test_numbers_keep_their_form() -> None:
    data = b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e-7,"seed":12345678901234567890}'
    assert b'"temperature":1e-7' in read_chat(data).forwarded("m@1.0")
    assert b'"seed":12345678901234567890' in read_chat(data).forwarded("m@1.0")


def test_only_the_engines_name_for_the_model_is_forwarded() -> None:
    data = b'{"model":"a","messages":[{"role":"user","content":"x"}],"model":"assistant"}'
    sent = read_chat(data).forwarded("assistant@1.2")
    assert sent.count(b'"model"') == 1
    assert json.loads(sent)["model"] == "assistant@1.2"


def test_a_client_cannot_put_itself_before_others() -> None:
    assert "priority" not in forwarded(chat(priority=-5))


def test_usage_is_always_counted_on_streams_and_left_alone_elsewhere() -> None:
    assert forwarded(chat(stream=True))["stream_options"] == {"include_usage": True}
    assert forwarded(chat(stream=True, stream_options=None))["stream_options"] == {"include_usage": True}
    assert "stream_options" not in forwarded(chat())


def test_usage_in_every_event_is_dropped_unless_usage_was_asked_for() -> None:
    unasked = chat(stream=True, stream_options={"continuous_usage_stats": True, "other": 1})
    assert forwarded(unasked)["stream_options"] == {"include_usage": True, "other": 1}
    assert not unasked.shows_usage
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = chat(stream=True, stream_options=options)
    assert forwarded(asked)["stream_options"] == options
    assert asked.shows_usage


def test_the_prompt_is_the_text_of_the_last_user_message() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {
            "role": "user",
            "content": [{"type": "text", "text": "second"}, {"type": "image_url", "image_url": {}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c"},
    ]
    assert chat(messages=messages).prompt == "second\n"


def test_prompts_of_completions_are_texts_or_tokens() -> None:
    assert read_completion(b'{"model":"m","prompt":"Once"}').prompt == "Once"
    assert read_completion(b'{"model":"m","prompt":["Once","Twice"]}').prompt == "Once"
    assert read_completion(b'{"model":"m","prompt":[1,2,3]}').prompt is None


def test_requests_of_one_user_that_extend_an_earlier_one_belong_together() -> None:
    first = [{"role": "user", "content": "Hello?"}]
    later = [*first, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Bye"}]
    other = [{"role": "user", "content": "Something else"}]
    mine = chat(user="ann", messages=first).conversation(None)
    assert mine is not None
    assert chat(user="ann", messages=later).conversation(None) == mine
    assert chat(user="ann", messages=other).conversation(None) != mine
    assert chat(user="bob", messages=first).conversation(None) != mine
    assert chat(messages=first).conversation(None) is None


def test_a_named_conversation_is_the_conversation() -> None:
    body = chat(user="ann", metadata={"conversation_id": "c-7"})
    assert body.conversation(None) == "c-7"
    assert body.conversation("c-8") == "c-8"
    with pytest.raises(BadFieldError, match="x-starloop-conversation"):
        body.conversation("c" * 300)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"{", "ends too early"),
        (b'{"model": "assistant",}', "byte 22"),
        (b'{"model": tru}', "byte 1"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b"null", "JSON object"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', "byte 51"),
        (b'{"deep":' + b"[" * 200_000, "nested too deeply"),
        (b'{"model":"m"} {}', "trailing characters"),
        (b"\xef\xbb\xbf{}", "byte 0"),
    ],
)
def test_what_is_no_json_object_is_refused_saying_where(data: bytes, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        read_chat(data)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"stream": "yes"}, "stream"),
        ({"store": 1}, "store"),
        ({"user": {"id": 1}}, "user"),
        ({"user": "u" * 300}, "user"),
        ({"metadata": ["a"]}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "x" * 600}}, "metadata.a"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"stream_options": 3}, "stream_options"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadFieldError) as refused:
        chat(**fields)
    assert refused.value.field == field


def test_missing_fields_are_named() -> None:
    with pytest.raises(BadFieldError, match="model: is required"):
        read_chat(b'{"messages":[{"role":"user","content":"x"}]}')
    with pytest.raises(BadFieldError, match="messages: is required"):
        read_chat(b'{"model":"m"}')
    with pytest.raises(BadFieldError, match="prompt: is required"):
        read_completion(b'{"model":"m"}')
