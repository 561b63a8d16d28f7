"""How soon a decision is felt, on real vLLM with users who ask all the while: a bad canary is out, a promoted version serves.

Each prints what it measured: `pytest -s -m system tests/system/test_canary_system.py`.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from feedback.starter.grammar import KNOWN, draw
from tests.faults.stage import Stage, stage

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(600)]

_USERS = 6
_OUT_SECONDS, _SERVES_SECONDS = 10.0, 3.0


class Answered(NamedTuple):
    """One answer to a user: when it was there (monotonic seconds), by which version, and how it ended."""

    at: float
    version: str
    status: int


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Engine, gateway and loop; two versions with random adapters, whose answers are no JSON."""
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, more='[schedule]\ncron = ""\n') as running, _loop(folder):
        for seed in range(2):
            running.add_version(seed)
        yield running


def test_a_canary_that_breaks_the_format_is_out_within_ten_seconds(on: Stage) -> None:
    with _users(on) as answered:
        begin = {"version": "1.0", "reason": "a test", "share": 0.2}
        begun = httpx.post(f"{on.address}/v1/models/assistant/canary", json=begin, timeout=60)
        assert begun.status_code == 201, begun.text
        began = time.monotonic()
        while (canary := _newest_canary(on))["state"] == "open" and time.monotonic() - began < 60:
            time.sleep(0.05)
        out = time.monotonic() - began
        time.sleep(2.0)  # what was under way then may still end
    theirs = [one for one in answered if one.version == "assistant@1.0"]
    last = max((one.at for one in theirs), default=began) - began
    print(
        f"\na canary that breaks the format was taken back {out:.1f} s after it began, on {len(theirs)} of its answers; its last "
        f"one came after {last:.1f} s"
    )
    assert canary["state"] == "rolled_back" and "format" in canary["reason"], canary
    assert len(theirs) >= 8, "users got too few of its answers for a guardrail to look at"
    assert out < _OUT_SECONDS and last < _OUT_SECONDS
    assert {one.status for one in answered} == {200}


def test_a_promoted_version_serves_within_three_seconds_of_its_decision(on: Stage) -> None:
    with _users(on) as answered:
        time.sleep(1.0)
        decided = time.monotonic()
        on.move("promote", version="1.1")
        moved = time.monotonic() - decided
        time.sleep(3.0)
    first = (
        min((one.at for one in answered if one.version == "assistant@1.1"), default=float("inf")) - decided
    )
    late = [one for one in answered if one.version != "assistant@1.1" and one.at - decided > _SERVES_SECONDS]
    print(
        f"\na version that the engine did not know was promoted in {moved:.1f} s and answered a user after {first:.1f} s"
    )
    assert first < _SERVES_SECONDS and late == []
    assert {one.status for one in answered} == {200}


@contextmanager
def _users(on: Stage) -> Iterator[list[Answered]]:
    """People who ask the model by its name while the block runs, each once; their answers, as they come in."""
    answered: list[Answered] = []
    over = threading.Event()

    def ask(seat: int) -> None:
        prompts = random.Random(seat)
        with httpx.Client(base_url=on.address, timeout=60, trust_env=False) as client:
            number = 0
            while not over.is_set():
                text = draw(prompts, KNOWN, "live").text
                body: dict[str, Any] = {
                    "model": "assistant",
                    "max_tokens": 24,
                    "user": f"user-{seat}-{number}",
                }
                body["messages"] = [{"role": "user", "content": text}]
                said = client.post("/v1/chat/completions", json=body)
                version = said.headers.get("x-starloop-version", "")
                answered.append(Answered(time.monotonic(), version, said.status_code))
                number += 1

    seats = [threading.Thread(target=ask, args=(seat,)) for seat in range(_USERS)]
    for seat in seats:
        seat.start()
    try:
        yield answered
    finally:
        over.set()
        for seat in seats:
            seat.join()


@contextmanager
def _loop(folder: Path) -> Iterator[None]:
    """`starloop loop`, once it leads."""
    log = folder / "loop.log"
    command = [
        sys.executable,
        "-P",
        "-m",
        "server.command",
        "loop",
        "--config",
        str(folder / "starloop.toml"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while "this loop leads now" not in (told := log.read_text(errors="replace")):
            assert process.poll() is None and time.monotonic() < deadline, told
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _newest_canary(on: Stage) -> dict[str, Any]:
    told = httpx.get(f"{on.address}/v1/models/assistant/canaries", params={"limit": 1}, timeout=30)
    found: dict[str, Any] = told.json()["items"][0]
    return found
