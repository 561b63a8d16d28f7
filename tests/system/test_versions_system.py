"""Versions on real vLLM: answers under churn are the right version's, token by token, and retired ones leave for good."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest

from feedback.starter.grammar import SCHEMA
from tests.faults.churn import run, table
from tests.faults.stage import Stage, stage

_CONSTRAINED = """\
[[model]]
name = "sorter"
labels = ["where_is_it?", "take-it back", "Ünter"]
constrain = true
[[model]]
name = "speller"
pattern = "[A-Z]{2}-\\\\d{4}"
constrain = true
[[model]]
name = "helpdesk"
constrain = true
"""

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An engine that runs two adapters at a time, and five versions."""
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, max_loras=2, max_cpu_loras=8, more=_CONSTRAINED) as running:
        for seed in range(5):
            running.add_version(seed)
        yield running


def test_answers_under_churn_are_those_made_alone(on: Stage) -> None:
    versions = [f"1.{minor}" for minor in range(5)]
    results = asyncio.run(run(on, versions, answers=200, moves=6, clients=6, seed=7, prompts=12))
    shown = table(results)
    assert results.distinct > 0.5, shown
    assert results.quiet.failed + results.control.failed + results.churn.failed == [], shown
    assert (results.control.another, results.churn.another) == (0, 0), shown
    assert (results.control.different, results.churn.different) == (0, 0), shown
    assert len(results.churn.versions) == 6 and results.churn.moves == 6, shown


def test_versions_are_retired_under_load_and_the_engine_lives_on(on: Stage) -> None:
    """1.2 and 1.3 are known to the engine from the test before; champion, base and 1.4 are asked all the while."""
    on.move("promote", version="1.0")
    on.move("promote", version="1.1")
    over = False

    def asking(number: int) -> int:
        count = 0
        with httpx.Client(base_url=on.address, timeout=60, trust_env=False) as client:
            while not over:
                body = {
                    "model": ("assistant", "assistant@base", "assistant@1.4")[number % 3],
                    "messages": [{"role": "user", "content": f"Where is parcel {count}?"}],
                    "max_tokens": 8,
                }
                answer = client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                count += 1
        return count

    known = [card["id"] for card in httpx.get(f"{on.engine_address}/v1/models").json()["data"]]
    assert {"assistant@1.2", "assistant@1.3"} <= set(known)
    with ThreadPoolExecutor(6) as pool:
        counts = [pool.submit(asking, number) for number in range(6)]
        try:
            for version in ("1.2", "1.3"):
                told = httpx.post(
                    f"{on.address}/v1/models/assistant/retire",
                    json={"version": version, "reason": "a test"},
                    timeout=90,
                )
                assert (told.status_code, told.json()["removed"]) == (200, True), told.text
        finally:
            over = True
        assert sum(one.result() for one in counts) > 20
    known = [card["id"] for card in httpx.get(f"{on.engine_address}/v1/models").json()["data"]]
    assert {"assistant@1.2", "assistant@1.3"}.isdisjoint(known)
    left = {path.name for path in (on.directory / "adapters").glob("assistant@*")}
    assert left == {"assistant@1.0", "assistant@1.1", "assistant@1.4"}
    # More adapters than the engine has places for are asked again, so that it must choose which to keep.
    for version in ("1.4", "1.0", "1.1", "1.4"):
        _answers(on, f"assistant@{version}")
    assert on.engine.poll() is None


def test_a_poisoned_folder_is_asked_of_no_engine_and_the_others_answer_on(on: Stage) -> None:
    number = on.add_version(99)
    weights = on.directory / "adapters" / f"assistant@{number}" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    told = httpx.Response(404)
    for _ in range(500):  # until the gateway has heard of it
        told = _ask(on, f"assistant@{number}")
        if told.status_code != 404:
            break
    assert told.status_code == 503
    assert "changed since it was published" in told.json()["error"]["message"]
    known = [card["id"] for card in httpx.get(f"{on.engine_address}/v1/models").json()["data"]]
    assert f"assistant@{number}" not in known
    _answers(on, "assistant")


def _ask(on: Stage, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Where is my parcel?"}], "max_tokens": 8}
    return httpx.post(f"{on.address}/v1/chat/completions", json=body, timeout=60)


def _answers(on: Stage, model: str) -> None:
    told = _ask(on, model)
    assert told.status_code == 200, told.text


@pytest.mark.parametrize("number", range(3))
def test_a_constrained_model_writes_nothing_out_of_form(on: Stage, number: int) -> None:
    """Also where it is made to say what it would never say by itself."""
    messages = [{"role": "user", "content": f"Sing me a song, verse {number}"}]
    hot = {"messages": messages, "temperature": 2.0, "seed": number, "max_tokens": 60}
    with httpx.Client(base_url=on.address, timeout=60, trust_env=False) as client:

        def said(path: str, **body: object) -> Any:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        def chat(model: str) -> str:
            answer = said("/v1/chat/completions", model=model, **hot)
            return str(answer["choices"][0]["message"]["content"])

        labels = ("where_is_it?", "take-it back", "Ünter")
        assert chat("sorter") in labels
        assert re.fullmatch(r"[A-Z]{2}-\d{4}", chat("speller"))
        assert jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(chat("helpdesk")))
        plain = said("/v1/completions", model="sorter", prompt="Sing", temperature=2.0, max_tokens=20)
        assert plain["choices"][0]["text"] in labels
        replied = said("/v1/responses", model="sorter", input="Sing", temperature=2.0, max_output_tokens=20)
        assert replied["output"][-1]["content"][0]["text"] in labels
        assert chat("assistant") not in labels
