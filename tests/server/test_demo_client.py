"""The demo's people beside somebody who chats on the page meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx

from server.demo.client import DemoClient
from tests.server.served import served
from tests.server.upstream import fake_engine


def test_a_reviewer_of_the_demo_drops_what_somebody_else_asked(tmp_path: Path) -> None:
    with fake_engine() as engine, served(tmp_path / "one", [engine.url]) as gateway:
        texts = [f"question {n} about {'abcdefghij'[n % 10] * 9} and {n * 7919}" for n in range(80)]
        with httpx.Client(base_url=gateway.address, trust_env=False) as http:
            for n, text in enumerate(texts):
                body = {
                    "model": "assistant",
                    "messages": [{"role": "user", "content": text}],
                    "user": f"u{n}",
                }
                assert http.post("/v1/chat/completions", json=body).status_code == 200
            deadline = time.monotonic() + 30
            while http.get("/health/ready").json()["journal"]["backlog"]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            drawn = asyncio.run(_review(gateway.address))
            cases = http.get("/v1/cases?limit=100").json()["items"]
        assert drawn == len(cases) >= 1, "with one in ten users and prompts on the evaluation side"
        assert {case["state"] for case in cases} == {"dropped"}


async def _review(address: str) -> int:
    client = DemoClient(address)
    try:
        return await client.review(20, {}, lambda: None)
    finally:
        await client.close()
