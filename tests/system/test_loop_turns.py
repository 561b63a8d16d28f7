"""The loop on real vLLM with real training, as `starloop up` runs it: one turn of drift, promotion, rollback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import openai
import psutil
import pytest
from rich.console import Console

from feedback.starter.grammar import DRIFT, KNOWN
from server.demo.client import DemoClient
from server.demo.story import Pace, Story
from tests.system.running import Up, up

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

_CONFIGURATION = """\
mode = "auto"
[dataset]
evaluation_share = 0.35
replay = 8.0
[training]
threads = 2
[canary]
share = 0
holdback = 0
[schedule]
cron = ""
"""


class Running(NamedTuple):
    """A Starloop that is up, and the story told to it."""

    up: Up
    story: Story

    @property
    def address(self) -> str:
        return self.up.address


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`starloop up` after one turn of drift with simulated users."""
    with up(tmp_path_factory.mktemp("loop"), _CONFIGURATION) as started:
        yield Running(started, asyncio.run(_tell(started.address)))


async def _tell(address: str) -> Story:
    client = DemoClient(address)
    pace = Pace(per_known=30, per_drift=30)
    story = Story(client, Console(), seed=0, pace=pace)
    try:
        await story.tell(1, poison=False)
    finally:
        await client.close()
    return story


def test_a_turn_of_drift_promotes_a_better_version(running: Running) -> None:
    base, first = running.story.versions
    assert running.story.turns[0]["decision"] == "promoted", running.story.turns[0]["reason"]
    assert first.version == "1.0"
    assert first.accuracy > base.accuracy + 0.10
    for intent in DRIFT[0]:
        assert first.intents[intent] > 0.7
    for intent in KNOWN:
        assert first.intents[intent] > base.intents[intent] - 0.15  # 30 cases each


def test_the_client_gets_the_champion_by_name_also_as_a_stream(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.address}/v1", api_key="none")
    raw = client.chat.completions.with_raw_response.create(
        model="assistant",
        messages=[{"role": "user", "content": "Is there a voucher for my next order?"}],
        temperature=0,
        max_tokens=24,
    )
    assert raw.headers["x-starloop-version"] == "assistant@1.0"
    plain = raw.parse().choices[0].message.content
    stream = client.chat.completions.create(
        model="assistant",
        messages=[{"role": "user", "content": "Is there a voucher for my next order?"}],
        temperature=0,
        max_tokens=24,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == plain
    assert json.loads(plain or "")["intent"] == "voucher"
    client.close()


def test_everything_said_stands_in_the_record_and_verifies(running: Running) -> None:
    verified = running.up.command("db", "verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    counts = json.loads(verified.stdout)
    assert counts["inferences"] >= 1200 and counts["feedback"] >= 600
    assert (counts["missing"], counts["duplicated"], counts["corrupt"]) == (0, 0, 0)


def test_lineage_goes_from_the_version_to_what_users_said(running: Running) -> None:
    shown = running.up.command("models", "lineage", "assistant@1.0", "--json")
    assert shown.returncode == 0, shown.stderr
    lineage = json.loads(shown.stdout)
    text = json.dumps(lineage)
    cycle = httpx.get(f"{running.address}/v1/cycles").json()["items"][0]
    assert cycle["id"] in text and cycle["dataset_id"] in text


def test_rollback_and_promotion_under_load_fail_no_request(running: Running) -> None:
    """Every answer names one of the two versions, and its text is that version's own."""
    texts = ["Is there a voucher for my next order?", "When is the blue sofa in stock again?"]

    def ask(model: str, text: str) -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=24
            )
            return raw.headers["x-starloop-version"], raw.parse().choices[0].message.content or ""

    alone = {
        (f"assistant@{version}", text): ask(f"assistant@{version}", text)[1]
        for version in ("base", "1.0")
        for text in texts
    }
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, "assistant", texts[n % 2]) for n in range(200)]
        for _ in range(3):
            rolled = httpx.post(
                f"{running.address}/v1/models/assistant/rollback", json={"reason": "drill"}, timeout=60
            )
            assert rolled.status_code == 200, rolled.text
            promoted = httpx.post(
                f"{running.address}/v1/models/assistant/promote",
                json={"version": "1.0", "reason": "drill over"},
                timeout=60,
            )
            assert promoted.status_code == 200, promoted.text
        answers = [future.result() for future in futures]
    for n, (version, text) in enumerate(answers):
        assert text == alone[(version, texts[n % 2])]


def test_the_gateway_stays_small(running: Running) -> None:
    gateway = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "serve" in (process.info["cmdline"] or [])
        and str(running.up.configuration) in (process.info["cmdline"] or [])
    ]
    assert gateway
    whole = [gateway[0], *gateway[0].children(recursive=True)]
    assert sum(process.memory_info().rss for process in whole) < 500_000_000
