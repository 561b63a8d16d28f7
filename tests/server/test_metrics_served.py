"""A scrape of a gateway with several workers: the sum whichever worker answers, also after one was killed."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import psutil

from tests.server.inside import HELLO
from tests.server.served import Served, served
from tests.server.test_metrics import ROUTE, Numbers, numbers
from tests.server.upstream import fake_engine

ANSWERED = ("starloop_requests_total", ROUTE, "assistant", "base", "2xx")


def scrape(gateway: Served) -> Numbers:
    """At whichever worker takes the new connection."""
    answer = httpx.get(f"{gateway.address}/metrics")
    assert answer.status_code == 200, answer.text
    return numbers(answer.text)


def ask(gateway: Served, times: int) -> None:
    for _ in range(times):
        assert httpx.post(f"{gateway.address}{ROUTE}", json=HELLO).status_code == 200


def until_workers(gateway: Served, count: int) -> None:
    deadline = time.monotonic() + 60
    while scrape(gateway)["starloop_workers",] != count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_scrape_is_the_sum_over_all_workers_also_after_one_was_killed(tmp_path: Path) -> None:
    with fake_engine() as engine, served(tmp_path / "one", [engine.url], workers=2) as gateway:
        until_workers(gateway, 2)
        ask(gateway, 30)
        assert [scrape(gateway)[ANSWERED] for _ in range(12)] == [30] * 12
        spent = scrape(gateway)["starloop_cpu_seconds_total",]
        files = sorted((gateway.directory / "metrics").rglob("*.cells"))
        assert len(files) == 2
        worker = next(
            child
            for child in psutil.Process(gateway.process.pid).children(recursive=True)
            if any(
                files[0].samefile(mapped.path)
                for mapped in child.memory_maps()
                if Path(mapped.path).is_file()
            )
        )
        worker.kill()
        worker.wait(10)
        seen = []
        deadline = time.monotonic() + 60
        while not seen or seen[-1]["starloop_workers",] != 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            try:
                seen.append(scrape(gateway))
            except httpx.TransportError:
                continue
        assert {one[ANSWERED] for one in seen} == {30}
        ask(gateway, 10)
        assert [scrape(gateway)[ANSWERED] for _ in range(12)] == [40] * 12
        assert scrape(gateway)["starloop_cpu_seconds_total",] >= spent
        assert (
            sorted((gateway.directory / "metrics").rglob("*.cells")) == files
        )  # its successor went on in its file
    assert not list((gateway.directory / "metrics").rglob("*.cells"))
