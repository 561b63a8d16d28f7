"""The managed engine on real vLLM, as `starloop engine` runs it: base, adapters by name, kill -9, and the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from feedback import starter
from feedback.asleep import found_asleep, wanted_asleep
from feedback.registry.bases import resolve_base
from server.connections import Connections
from server.engine.command import installed_build
from server.processes.family import alive, end, identify
from server.processes.record import ProcessRecord, read_records
from tests.server.served import free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

NIGHT = '[training]\nwindow = "02:00-05:00"\nengine_asleep = true\n'
LONG = 900
"""Tokens of an answer that takes longer than the quickest sleep."""
SEATS, CROWD = 8, 64
"""Requests that the engine answers at once, and those that stand before it."""
REQUEST_ID = "01890000-0000-7000-8000-000000000001"


class RunningEngine:
    """`starloop engine` on a data directory."""

    def __init__(self, directory: Path) -> None:
        installed_build()
        port = free_port()
        self.directory, self.out = directory, directory.with_name("said.txt")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        configuration = directory.with_name("starloop.toml")
        configuration.write_text(
            f'[storage]\ndirectory = "{directory}"\n[[engine]]\nport = {port}\n'
            f'arguments = ["--max-num-seqs", "{SEATS}"]\n{NIGHT}'
        )
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server.command", "engine", "--config", str(configuration)],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.until(lambda: "ready (" in self.said())
        self.base = resolve_base("starter", directory).engine_model

    def said(self) -> str:
        return self.out.read_text()

    def until(self, reached: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def record(self) -> ProcessRecord:
        return next(record for _, record in read_records(self.directory / "run"))

    def complete(self, model: str, **more: Any) -> httpx.Response:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Where is my parcel?"}],
            "temperature": 0,
        }
        return self.http.post(
            "/v1/chat/completions",
            json=body | {"max_tokens": 24} | more,
            headers={"x-request-id": REQUEST_ID},
        )

    async def passed(self, waits: bool) -> int:
        """How many of a crowd, who come first and may say that they wait, a user passes; asked as the gateway asks."""
        connections = Connections(str(self.http.base_url))
        hello = [{"role": "user", "content": "Where is my parcel?"}]
        asked = {"model": self.base, "messages": hello, "ignore_eos": True, "n": 2}

        async def ask(waits: bool, tokens: int) -> None:
            body = json.dumps(asked | {"max_tokens": tokens}).encode()
            connection = await connections.take(fresh=True)
            request = connections.request("POST", "/v1/chat/completions", body, waits=waits)
            await connection.send(request, 120)
            told = await connection.read_all(120)
            connections.give_back(connection)
            assert connection.status == 200 and len(json.loads(told)["choices"]) == 2, told

        crowd = [asyncio.create_task(ask(waits, 48)) for _ in range(CROWD)]
        while not await asyncio.to_thread(self._queue):
            await asyncio.sleep(0.05)
        await ask(False, 4)
        left = sum(not one.done() for one in crowd)
        await asyncio.gather(*crowd)
        connections.close()
        return left

    def _queue(self) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:num_requests_waiting{")
        )

    def publish(self, name: str) -> None:
        """An adapter that changes what the starter says, put in its place by one rename."""
        config = json.loads((starter.model_directory() / "config.json").read_text())
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        random = np.random.default_rng(7)
        tensors = {}
        for layer in range(layers):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
            inner = config["num_attention_heads"] * config["head_dim"]
            tensors[f"{prefix}.lora_A.weight"] = random.normal(size=(4, inner)).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = random.normal(size=(hidden, 4)).astype(np.float32)
        staged = self.directory / "adapters" / ".staged"
        staged.mkdir()
        save_file(tensors, staged / "adapter_model.safetensors")
        described = {
            "peft_type": "LORA",
            "base_model_name_or_path": self.base,
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["o_proj"],
            "bias": "none",
        }
        (staged / "adapter_config.json").write_text(json.dumps(described))
        staged.rename(staged.with_name(name))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(tmp_path_factory.mktemp("engine") / "data")
    yield running
    family = [identify(child.pid) for child in psutil.Process(running.process.pid).children(recursive=True)]
    members = [member for member in family if member is not None]
    assert members
    running.process.send_signal(signal.SIGTERM)
    status = running.process.wait(60)
    running.http.close()
    left = [member for member in members if alive(member)]
    end(left, 0)
    assert (status, left, list((running.directory / "run").glob("*.json"))) == (0, [], [])


def test_the_base_is_called_as_adapters_call_it_and_answers(engine: RunningEngine) -> None:
    card = engine.http.get("/v1/models").json()["data"][0]
    assert (card["id"], card["parent"]) == (engine.base, None)
    answer = engine.complete(engine.base)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["choices"][0]["message"]["content"]).keys() == {"intent", "urgency"}


def test_answers_carry_the_id_that_they_were_asked_with_streams_too(engine: RunningEngine) -> None:
    assert engine.complete(engine.base).json()["id"] == f"chatcmpl-{REQUEST_ID}"
    events = engine.complete(engine.base, stream=True).text
    assert f'"id":"chatcmpl-{REQUEST_ID}"' in events.replace('": "', '":"')
    assert events.rstrip().endswith("data: [DONE]")


def test_an_adapter_is_served_from_the_moment_its_folder_stands_also_after_a_kill_9(
    engine: RunningEngine,
) -> None:
    name = "assistant@1.0"
    assert engine.complete(name).status_code == 404
    engine.publish(name)
    first = engine.complete(name)
    assert (first.status_code, first.json()["model"]) == (200, name), first.text
    text = first.json()["choices"][0]["message"]["content"]
    assert text != engine.complete(engine.base).json()["choices"][0]["message"]["content"]

    front, workers = engine.record().leader, engine.record().members
    assert workers
    os.kill(front.pid, signal.SIGKILL)
    engine.until(lambda: engine.said().count("ready (") == 2)
    assert [member for member in (front, *workers) if alive(member)] == []
    assert engine.complete(name).json()["choices"][0]["message"]["content"] == text


def test_requests_leave_no_trace_in_the_log(engine: RunningEngine) -> None:
    log = engine.directory / "logs" / "engine-starter.log"
    before = log.read_text().count("chat/completions")
    assert engine.complete(engine.base).status_code == 200
    assert log.read_text().count("chat/completions") == before


def test_the_engine_speaks_the_other_apis_with_the_ids_and_last_events_that_the_gateway_counts_on(
    engine: RunningEngine,
) -> None:
    headers = {"x-request-id": REQUEST_ID}
    hello = [{"role": "user", "content": "Where is my parcel?"}]
    asked: dict[str, dict[str, Any]] = {
        "/v1/messages": {"messages": hello, "max_tokens": 8},
        "/v1/responses": {"input": hello, "max_output_tokens": 8, "request_id": f"resp_{REQUEST_ID}"},
    }
    ids = {"/v1/messages": f"chatcmpl-{REQUEST_ID}", "/v1/responses": f"resp_{REQUEST_ID}"}
    ends = {"/v1/messages": {"message_stop"}, "/v1/responses": {"response.completed", "response.incomplete"}}
    for path, body in asked.items():
        plain = engine.http.post(path, json=body | {"model": engine.base}, headers=headers)
        assert plain.status_code == 200, plain.text
        assert (plain.json()["id"], plain.json()["model"]) == (ids[path], engine.base)
        assert plain.json()["usage"]["output_tokens"] > 0
        events = engine.http.post(path, json=body | {"model": engine.base, "stream": True}, headers=headers)
        names = [line[7:] for line in events.text.splitlines() if line.startswith("event: ")]
        assert names[-1] in ends[path], events.text[-500:]
        assert not ends[path].intersection(names[:-1])
    none = engine.http.post("/v1/embeddings", json={"model": engine.base, "input": "x"})
    assert (none.status_code, none.json()) == (404, {"detail": "Not Found"})


def test_a_user_passes_those_who_say_that_they_wait_and_nobody_else(engine: RunningEngine) -> None:
    background, others = (asyncio.run(engine.passed(waits)) for waits in (True, False))
    print(f"\na user passed {background} of {CROWD} that waited, and {others} of {CROWD} other users")
    assert others <= 2 * SEATS < CROWD / 2 <= background


def test_it_finishes_what_it_answers_gives_all_its_memory_away_and_answers_the_same_after_its_sleep(
    engine: RunningEngine,
) -> None:
    before = engine.complete(engine.base).json()["choices"][0]["message"]["content"]
    record, ready = engine.record(), engine.said().count("ready (")
    found = found_asleep(engine.directory)
    answers: list[httpx.Response] = []
    long = threading.Thread(
        target=lambda: answers.append(engine.complete(engine.base, max_tokens=LONG, ignore_eos=True))
    )
    long.start()
    with wanted_asleep(engine.directory).held("while a test trains"):
        engine.until(lambda: found.told() is not None)
        long.join()
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] == LONG
        assert [one for one in (record.leader, *record.members) if alive(one)] == []
    engine.until(lambda: engine.said().count("ready (") == ready + 1)
    assert found.told() is None
    assert engine.complete(engine.base).json()["choices"][0]["message"]["content"] == before
