"""What the gateway keeps when it is told to keep less: redacted or no content, and the client sees none of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feedback.settings import Capture
from tests.server.inside import Inside, inside, settings_for
from tests.server.upstream import FakeEngine

ANN = "ann.lee@example.com"
ASKED = {"messages": [{"role": "user", "content": f"I am {ANN}"}], "user": "ann"}


@contextmanager
def _gateway(data: Path, engine: FakeEngine, **capture: Any) -> Iterator[Inside]:
    settings = settings_for(data, [engine.url])
    with inside(msgspec.structs.replace(settings, capture=Capture(**capture))) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_gets_the_bytes_and_the_record_the_placeholders(
    stream: bool, data: Path, engine: FakeEngine
) -> None:
    engine.answer = lambda body: f"hello {ANN} and bob@example.com"
    with _gateway(data, engine, pii="redact") as gateway:
        answer = gateway.ask({**ASKED, "stream": stream})
        told = (
            "".join(
                one["choices"][0]["delta"].get("content") or ""
                for one in answer.events
                if one != "[DONE]" and one["choices"]
            )
            if stream
            else answer.json["choices"][0]["message"]["content"]
        )
        assert told == f"hello {ANN} and bob@example.com"
        assert engine.completions()[0].body["messages"] == ASKED["messages"]
        kept = gateway.record(answer.headers["x-starloop-inference-id"])
        assert "example.com" not in json.dumps(kept)
        assert (kept["prompt"], kept["output"]) == ("I am [email]", "hello [email] and [email 2]")
        assert kept["user"] == "ann"


def test_comments_and_corrections_are_redacted_before_the_journal(data: Path, engine: FakeEngine) -> None:
    with _gateway(data, engine, pii="redact") as gateway:
        identifier = gateway.ask(ASKED).headers["x-starloop-inference-id"]
        said = {
            "inference_id": identifier,
            "rating": 1,
            "comment": f"I am {ANN}!" + " so" * 5_000,
            "correction": ANN,
        }
        assert gateway.call("POST", "/v1/feedback", said).status == 201
        kept = gateway.record(identifier)["feedback"][0]
        assert kept["comment"].startswith("I am [email]! so so") and kept["correction"] == "[email]"


def test_metadata_alone_keeps_who_and_how_long_and_no_word(data: Path, engine: FakeEngine) -> None:
    with _gateway(data, engine, content="metadata") as gateway:
        answer = gateway.ask({**ASKED, "metadata": {"channel": "mail"}})
        kept = gateway.record(answer.headers["x-starloop-inference-id"])
        assert all(kept[name] is None for name in ("request", "response", "prompt", "output"))
        assert (kept["user"], kept["metadata"]) == ("ann", {"channel": "mail"})
        assert kept["completion_tokens"] > 0
        assert ANN not in json.dumps(kept)


def test_words_about_an_answer_are_refused_where_only_metadata_is_kept(
    data: Path, engine: FakeEngine
) -> None:
    with _gateway(data, engine, content="metadata") as gateway:
        identifier = gateway.ask(ASKED).headers["x-starloop-inference-id"]
        refused = gateway.call(
            "POST", "/v1/feedback", {"inference_id": identifier, "rating": 1, "comment": "no"}
        )
        assert refused.status == 400 and "comment" in refused.json["error"]["message"]
        assert gateway.call("POST", "/v1/feedback", {"inference_id": identifier, "rating": 1}).status == 201
