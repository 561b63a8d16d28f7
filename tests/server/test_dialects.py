"""The APIs beside chat completions: as their own clients call them, with the same capture, versions and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from feedback.datasets.chat import messages_of
from tests.server.inside import Answer, Inside
from tests.server.openai_client import Client
from tests.server.test_access import make_key
from tests.server.upstream import FakeEngine
from tests.server.versions import add_version

anthropic = pytest.importorskip("anthropic", reason="Anthropic's client is not installed")
httpx2 = pytest.importorskip("httpx2", reason="the transport of Anthropic's client is not installed")

ASKED = {
    "/v1/responses": {"model": "assistant", "input": "Hello"},
    "/v1/messages": {
        "model": "assistant",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hello"}],
    },
    "/v1/embeddings": {"model": "assistant", "input": "Hello"},
}
SAYING = ["/v1/responses", "/v1/messages"]
LAST = {"/v1/responses": "response.completed", "/v1/messages": "message_stop"}


def ask(gateway: Inside, path: str, **more: Any) -> Answer:
    return gateway.call("POST", path, ASKED[path] | more)


def kept(gateway: Inside, answer: Answer) -> Any:
    return gateway.record(answer.headers["x-starloop-inference-id"])


def names(answer: Answer) -> list[str]:
    return [line[7:] for line in answer.body.decode().splitlines() if line.startswith("event: ")]


class _Into(httpx2.BaseTransport):
    """Requests of Anthropic's client, handed to the application as they are."""

    def __init__(self, gateway: Inside) -> None:
        self._gateway = gateway

    def handle_request(self, request: Any) -> Any:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        path = request.url.raw_path.decode()
        told = self._gateway.call(request.method, path, request.read(), headers | {"host": "127.0.0.1:8000"})
        return httpx2.Response(told.status, headers=told.headers, content=told.body)


@pytest.fixture
def theirs(gateway: Inside) -> Iterator[Any]:
    """Anthropic's client, by key."""
    made = []

    def as_key(secret: str = "none") -> Any:
        http = httpx2.Client(transport=_Into(gateway))
        made.append(
            anthropic.Anthropic(
                api_key=secret, base_url="http://127.0.0.1:8000", http_client=http, max_retries=0
            )
        )
        return made[-1]

    yield as_key
    for one in made:
        one.close()


# -- their clients


def test_anthropics_client_talks_and_is_kept(gateway: Inside, theirs: Any) -> None:
    client = theirs()
    said = client.messages.create(
        model="assistant",
        max_tokens=9,
        system="Be brief.",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        metadata={"user_id": "ann"},
    )
    assert said.content[0].text == "bases/starter answers"
    found = gateway.record(said.id.removeprefix("chatcmpl-"))
    assert (found["user"], found["output"], found["finish_reason"]) == (
        "ann",
        "bases/starter answers",
        "stop",
    )
    assert (found["prompt_tokens"], found["completion_tokens"]) == (7, 2)
    assert messages_of(json.dumps(found["request"])) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    with client.messages.stream(
        model="assistant", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
    ) as events:
        assert "".join(events.text_stream) == "bases/starter answers"
        assert events.get_final_message().stop_reason == "end_turn"


def test_anthropics_client_reads_what_went_wrong(gateway: Inside, theirs: Any) -> None:
    hello = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(anthropic.NotFoundError) as unknown:
        theirs().messages.create(model="other", **hello)
    assert unknown.value.body["error"]["type"] == "not_found_error"
    assert "registered are: assistant" in unknown.value.body["error"]["message"]
    with pytest.raises(anthropic.BadRequestError) as empty:
        theirs().messages.create(model="assistant", max_tokens=9, messages=[])
    assert "messages: is empty" in empty.value.body["error"]["message"]
    secret = make_key(gateway, "infer")
    assert theirs(secret).messages.create(model="assistant", **hello).content
    with pytest.raises(anthropic.AuthenticationError):
        theirs("sl-wrong").messages.create(model="assistant", **hello)
    with pytest.raises(anthropic.PermissionDeniedError):
        theirs(make_key(gateway, "feedback")).messages.create(model="assistant", **hello)


def test_anthropics_client_counts_tokens_of_which_nothing_is_kept(
    gateway: Inside, engine: FakeEngine, theirs: Any
) -> None:
    hello: Any = [{"role": "user", "content": "Hello there, how are you?"}]
    client = theirs()
    assert client.messages.count_tokens(model="assistant", messages=hello, system="x").input_tokens == 8
    (seen,) = engine.seen
    assert (seen.path, seen.body["model"]) == ("/v1/messages/count_tokens", "bases/starter")
    assert seen.body["system"] == "x"
    assert gateway.call("GET", "/v1/inferences").json["items"] == []
    with pytest.raises(anthropic.NotFoundError, match="registered are: assistant"):
        client.messages.count_tokens(model="other", messages=hello)
    with pytest.raises(anthropic.BadRequestError, match="messages: is empty"):
        client.messages.count_tokens(model="assistant", messages=[])
    engine.status = 400
    with pytest.raises(anthropic.BadRequestError, match="told to fail"):
        client.messages.count_tokens(model="assistant", messages=hello)
    engine.status = 500
    with pytest.raises(anthropic.InternalServerError, match="failed with status 500"):
        client.messages.count_tokens(model="assistant", messages=hello)
    engine.routes = ("/v1/chat/completions",)
    with pytest.raises(anthropic.NotFoundError, match="does not serve /v1/messages/count_tokens"):
        client.messages.count_tokens(model="assistant", messages=hello)
    make_key(gateway, "infer")
    with pytest.raises(anthropic.AuthenticationError):
        client.messages.count_tokens(model="assistant", messages=hello)


def test_openais_client_gets_responses_whose_id_can_be_rated(gateway: Inside, client: Client) -> None:
    ours = client("none")
    said = ours.responses.create(model="assistant", instructions="Be brief.", input="Hello", user="ann")
    assert said.output_text == "bases/starter answers"
    found = gateway.record(said.id.removeprefix("resp_"))
    assert (found["user"], found["output"], found["finish_reason"]) == (
        "ann",
        "bases/starter answers",
        "stop",
    )
    rated = gateway.call("POST", "/v1/feedback", {"inference_id": said.id, "rating": 5})
    assert rated.status in (200, 201, 202), rated.body
    pieces = []
    with ours.responses.stream(model="assistant", input=[{"role": "user", "content": "Hello"}]) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert events.get_final_response().output_text == "".join(pieces) == "bases/starter answers"
    assert len(pieces) > 1


def test_openais_client_gets_vectors_of_the_base_unless_a_version_is_named(
    gateway: Inside, client: Client, engine: FakeEngine
) -> None:
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    moved = gateway.call(
        "POST", "/v1/models/assistant/promote", {"version": number, "reason": "a test of vectors"}
    )
    assert moved.status == 200, moved.body
    assert gateway.ask().headers["x-starloop-version"] == f"assistant@{number}"
    ours = client("none")
    made = ours.embeddings.create(model="assistant", input=["Hello", "there"])
    assert [one.embedding for one in made.data] == [[0.5, -0.25]] * 2
    assert made.model == "bases/starter"
    assert ours.embeddings.create(model=f"assistant@{number}", input="Hello").model == f"assistant@{number}"


# -- what is kept


def test_a_vectors_request_is_kept_without_the_vectors_and_teaches_nothing(gateway: Inside) -> None:
    found = kept(gateway, ask(gateway, "/v1/embeddings", input=["a", "b"], user="ann"))
    assert (found["purpose"], found["output"], found["prompt_tokens"]) == ("embedding", None, 6)
    assert found["response"]["vectors"] == 2 and "data" not in found["response"]
    assert found["request"]["input"] == ["a", "b"]


@pytest.mark.parametrize("path", SAYING)
def test_a_stream_is_put_together_as_the_plain_answer_is(gateway: Inside, path: str) -> None:
    plain, streamed = ask(gateway, path), ask(gateway, path, stream=True)
    assert names(streamed)[-1] == LAST[path]
    whole, pieces = kept(gateway, plain), kept(gateway, streamed)
    for field in ("output", "finish_reason", "prompt_tokens", "completion_tokens", "version"):
        assert whole[field] == pieces[field] is not None
    assert pieces["streamed"] and pieces["first_token_ms"] is not None
    part = "output" if path == "/v1/responses" else "content"
    assert whole["response"][part] == pieces["response"][part]


@pytest.mark.parametrize("path", list(ASKED))
def test_what_is_not_to_be_kept_is_not(gateway: Inside, engine: FakeEngine, path: str) -> None:
    found = kept(gateway, ask(gateway, path, store=False, user="ann"))
    assert (found["request"], found["response"], found["output"], found["user"]) == (None,) * 4


@pytest.mark.parametrize("path", SAYING)
def test_a_conversation_is_known_by_its_user_and_its_beginning(gateway: Inside, path: str) -> None:
    field = "input" if path == "/v1/responses" else "messages"
    opening = [{"role": "user", "content": "Hello"}]
    more = [*opening, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And?"}]
    first, second = (kept(gateway, ask(gateway, path, user="ann", **{field: one})) for one in (opening, more))
    assert first["conversation"] == second["conversation"] is not None


def test_calls_of_tools_are_kept_in_the_form_of_chat(gateway: Inside, engine: FakeEngine) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"x":1}'}
    answer = {"model": "bases/starter", "status": "completed", "output": [call], "id": "resp_x"}
    engine.garbage = json.dumps(answer).encode()
    found = kept(gateway, ask(gateway, "/v1/responses"))
    assert found["finish_reason"] == "tool_calls"
    used = {"type": "tool_use", "id": "c1", "name": "look", "input": {"x": 1}}
    message = {"model": "bases/starter", "stop_reason": "tool_use", "content": [used]}
    engine.garbage = json.dumps(message).encode()
    other = kept(gateway, ask(gateway, "/v1/messages"))
    assert json.loads(found["output"]) == json.loads(other["output"])
    assert json.loads(other["output"])[0]["function"] == {"name": "look", "arguments": '{"x":1}'}


def test_what_is_said_beside_a_call_and_the_call_are_both_kept(gateway: Inside, engine: FakeEngine) -> None:
    function = {"name": "look", "arguments": '{"x":1}'}
    calls = [{"id": "c1", "type": "function", "function": function}]
    chat = {"message": {"content": "I look.", "tool_calls": calls}, "finish_reason": "tool_calls"}
    said = {"type": "message", "content": [{"type": "output_text", "text": "I look."}]}
    called = {"type": "function_call", "call_id": "c1", **function}
    blocks = [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"x": 1}},
    ]
    answers = {
        "/v1/chat/completions": {"choices": [chat]},
        "/v1/responses": {"status": "completed", "id": "resp_x", "output": [said, called]},
        "/v1/messages": {"stop_reason": "tool_use", "content": blocks},
    }
    for path, answer in answers.items():
        engine.garbage = json.dumps({"model": "bases/starter", **answer}).encode()
        asked = ASKED.get(path) or {"model": "assistant", "messages": [{"role": "user", "content": "Hello"}]}
        output = json.loads(kept(gateway, gateway.call("POST", path, asked))["output"])
        assert output == {"content": "I look.", "tool_calls": calls}, path


@pytest.mark.parametrize(
    ("told", "reason"),
    [({"reason": "max_output_tokens"}, "length"), ({"reason": "content_filter"}, "content_filter")],
)
def test_a_response_that_is_incomplete_says_why(
    gateway: Inside, engine: FakeEngine, told: Any, reason: str
) -> None:
    answer = {"model": "bases/starter", "status": "incomplete", "incomplete_details": told, "output": []}
    engine.garbage = json.dumps(answer).encode()
    assert kept(gateway, ask(gateway, "/v1/responses"))["finish_reason"] == reason


# -- what can go wrong


@pytest.mark.parametrize("path", list(ASKED))
def test_an_engine_without_that_api_is_told_and_nothing_else_is_blamed(
    gateway: Inside, engine: FakeEngine, path: str
) -> None:
    engine.routes = ("/v1/chat/completions",)
    answer = ask(gateway, path)
    assert answer.status == 404
    assert answer.json["error"]["message"] == f"the engine of 'assistant' does not serve {path}"
    assert kept(gateway, answer)["status"] == 404


@pytest.mark.parametrize("path", list(ASKED))
def test_an_answer_of_another_model_is_nobodys(gateway: Inside, engine: FakeEngine, path: str) -> None:
    engine.impostor = "assistant@9.9"
    answer = ask(gateway, path)
    assert answer.status == 502 and "although" in answer.json["error"]["message"]
    if path in SAYING:
        streamed = ask(gateway, path, stream=True)
        assert names(streamed)[-1] == "error"
        assert "assistant@9.9" not in streamed.body.decode().split("event: error")[0]


@pytest.mark.parametrize("path", list(ASKED))
def test_what_is_no_answer_is_not_passed_on(gateway: Inside, engine: FakeEngine, path: str) -> None:
    engine.garbage = b"<html>"
    assert ask(gateway, path).status == 502


@pytest.mark.parametrize("path", SAYING)
def test_a_stream_that_breaks_off_ends_with_an_error_and_its_text_is_kept(
    gateway: Inside, engine: FakeEngine, path: str
) -> None:
    engine.die_after = 5
    answer = ask(gateway, path, stream=True)
    assert names(answer)[-1] == "error" and LAST[path] not in names(answer)
    found = kept(gateway, answer)
    assert found["output"] and "bases/starter answers".startswith(found["output"])
    assert found["error"]


@pytest.mark.parametrize("path", SAYING)
def test_a_client_that_leaves_is_noticed(gateway: Inside, engine: FakeEngine, path: str) -> None:
    engine.pause = 60.0
    sent = gateway.send("POST", path, ASKED[path] | {"stream": True}, leaves=lambda told: bool(told.body))
    answer = gateway.run(sent)
    gateway.wait_for(lambda: engine.gone == 1)
    assert kept(gateway, answer)["status"] == 499


@pytest.mark.parametrize(
    ("path", "more", "told"),
    [
        ("/v1/responses", {"input": ""}, "input: is empty"),
        ("/v1/responses", {"input": []}, "input: is empty"),
        ("/v1/responses", {"input": 5}, "input:"),
        ("/v1/responses", {"previous_response_id": "resp_1"}, "send the whole conversation"),
        ("/v1/responses", {"conversation": "conv_1"}, "send the whole conversation"),
        ("/v1/responses", {"background": True}, "background: is not possible"),
        ("/v1/messages", {"messages": "Hello"}, "messages:"),
        ("/v1/messages", {"system": 5}, "system:"),
        ("/v1/messages", {"metadata": {"user_id": "x" * 300}}, "metadata.user_id"),
        ("/v1/embeddings", {"input": []}, "input: is empty"),
        ("/v1/embeddings", {"stream": True}, "stream: is not possible"),
    ],
)
def test_a_request_that_cannot_be_is_refused_by_its_field(
    gateway: Inside, engine: FakeEngine, path: str, more: Any, told: str
) -> None:
    answer = ask(gateway, path, **more)
    assert answer.status == 400
    assert told in answer.json["error"]["message"]
    assert not engine.completions()


def test_the_engines_answer_is_never_kept_there(gateway: Inside, engine: FakeEngine) -> None:
    answer = ask(gateway, "/v1/responses", store=True, priority=-5)
    sent = engine.completions()[0].body
    assert sent["store"] is False and "priority" not in sent
    assert answer.json["id"] == sent["request_id"] == f"resp_{answer.headers['x-starloop-inference-id']}"
