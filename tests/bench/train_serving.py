"""Part of `make bench-train`: what a training costs an engine on the same cores, and what serving costs the training.

`starloop up` with real vLLM on the starter answers over a fixed number of connections, each with one request after the
other. A training of the product runs in a process of its own, placed as a cycle places it. A round is served quietly, trained
alone, and then both at once; the training of a round is one and the same all the while, past its first steps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from feedback import starter
from feedback.registry.bases import resolve_base
from feedback.settings import Training
from tests.bench import peers
from tests.bench.percentiles import percentile
from tests.bench.report import machine
from tests.bench.train_rows import turns, write_version
from tests.bench.usage import machine_busy, own_work
from tests.system.running import Up, up
from trainer.machine import find_machine
from trainer.placement import place_on
from trainer.training import Progress, TrainingSpec, train

CONNECTIONS = 8
ROWS = 20_000
"""Rows that are trained on: so many that no look at the validation rows falls into what is timed."""
WARM_UP = 5
"""Steps before a training is timed."""
TARGETS = {"throughput": 0.5, "p99": 3.0, "training": 0.3}
_MAX_TOKENS = 24
_PATIENCE = 180.0
_CONFIGURATION = '[schedule]\ncron = ""\n'


class _EnoughError(Exception):
    """The training was watched for as long as it is needed."""


class Running:
    """A training under way: how many steps it has done, to the moment."""

    def __init__(self) -> None:
        self._step, self._ended = 0, threading.Event()

    def see(self, progress: Progress) -> None:
        self._step = progress.step
        if self._ended.is_set():
            raise _EnoughError

    def end(self) -> None:
        self._ended.set()

    def warm(self, future: Any) -> None:
        """Return once its first steps are done. Raises what the training raised, `TimeoutError` after some minutes."""
        deadline = time.monotonic() + _PATIENCE
        while self._step < WARM_UP:
            if future.done():
                future.result()
            if time.monotonic() > deadline:
                raise TimeoutError(f"a training came to step {self._step} in {_PATIENCE:.0f} s")
            time.sleep(0.05)

    @contextmanager
    def timed(self) -> Iterator[dict[str, float]]:
        """Steps per second while the block runs."""
        speed: dict[str, float] = {}
        step, began = self._step, time.perf_counter()
        yield speed
        speed["steps_per_second"] = (self._step - step) / (time.perf_counter() - began)


@contextmanager
def training(folder: Path, dataset: Path, seed: int) -> Iterator[Running]:
    """The starter's training by the settings' defaults, past its first steps; ended with the block."""
    settings, here = Training(), find_machine()
    base = resolve_base(str(starter.model_directory()), folder)
    spec = TrainingSpec.of(
        settings,
        base_path=base.path,
        base_revision=base.revision,
        engine_model=base.engine_model,
        dataset=str(dataset),
        out=str(folder / f"training-{seed}"),
        max_rank=settings.rank,
    )
    running = Running()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(train, spec, running.see, place_on(here, settings))
        try:
            running.warm(future)
            yield running
        finally:
            running.end()
            ended = future.exception()
    if not isinstance(ended, _EnoughError):
        raise RuntimeError(f"the training ended before it was measured: {ended}")


async def load(address: str, seconds: float, questions: Iterator[str]) -> dict[str, Any]:
    """Answers over `CONNECTIONS` connections for so long: how many a second, and the milliseconds of each."""
    took: list[float] = []
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        began = time.perf_counter()

        async def connection() -> None:
            while (asked := time.perf_counter()) < began + seconds:
                body = {
                    "model": "assistant",
                    "messages": [{"role": "user", "content": next(questions)}],
                    "temperature": 0,
                    "max_tokens": _MAX_TOKENS,
                }
                answer = await client.post("/v1/chat/completions", json=body)
                answer.raise_for_status()
                took.append((time.perf_counter() - asked) * 1000)

        await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
        lasted = time.perf_counter() - began
    return {"requests_per_second": len(took) / lasted, "milliseconds": took}


def rounds(folder: Path, times: int, seconds: float) -> list[dict[str, Any]]:
    """So many rounds; each of its three parts is measured for so many seconds."""
    dataset = write_version(folder / "rows", ROWS)
    numbers = count()
    questions = (f"{talk[0]['content']} ({next(numbers)})" for talk in turns())
    with up(folder, _CONFIGURATION) as server:
        asyncio.run(load(server.address, seconds / 2, questions))  # what is made once
        return [_round(server, folder, dataset, number, seconds, questions) for number in range(times)]


def _round(
    server: Up, folder: Path, dataset: Path, number: int, seconds: float, questions: Iterator[str]
) -> dict[str, Any]:
    quiet = asyncio.run(load(server.address, seconds, questions))
    with training(folder, dataset, number) as running:
        with running.timed() as alone:
            time.sleep(seconds)
        with running.timed() as beside:
            busy = asyncio.run(load(server.address, seconds, questions))
    shutil.rmtree(folder / f"training-{number}", ignore_errors=True)
    result: dict[str, Any] = {"quiet": quiet, "busy": busy}
    result |= {"alone": alone["steps_per_second"], "beside": beside["steps_per_second"]}
    print(json.dumps({name: _short(part) for name, part in result.items()}), file=sys.stderr)
    return result


def serving(folder: Path, times: int = 3, seconds: float = 15.0) -> dict[str, Any]:
    """All rounds, and the share of the machine that other programs took of it meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    began, busy, own = time.monotonic(), machine_busy(), own_work()
    found = rounds(folder, times, seconds)
    spent = machine_busy() - busy - (own_work() - own)
    cores = find_machine().cores
    return {
        "rounds": found,
        "seconds": seconds,
        "others": max(0.0, spent / cores / (time.monotonic() - began)),
    }


def ratios(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Both at once by each alone: medians over the rounds, and p99 over the answers of all rounds."""
    speeds = [one["busy"]["requests_per_second"] / one["quiet"]["requests_per_second"] for one in found]
    slowest = [percentile([ms for one in found for ms in one[part]["milliseconds"]], 99) for part in _PARTS]
    return {
        "throughput": median(speeds),
        "p99": slowest[1] / slowest[0],
        "training": median(one["beside"] / one["alone"] for one in found),
    }


_PARTS = ("quiet", "busy")


def table(results: dict[str, Any]) -> list[str]:
    """What is written of it."""
    found, by = results["rounds"], ratios(results["rounds"])
    answers = {part: [ms for one in found for ms in one[part]["milliseconds"]] for part in _PARTS}
    speeds = {part: median(one[part]["requests_per_second"] for one in found) for part in _PARTS}
    lines = [
        "## Serving while a training runs",
        "",
        "| | alone | both at once | ratio | to reach |",
        "|---|---|---|---|---|",
        f"| answers per second | {speeds['quiet']:.1f} | {speeds['busy']:.1f} | {by['throughput']:.2f}× | ≥ {TARGETS['throughput']}× |",
    ]
    for share, goal in ((50, ""), (99, f"≤ {TARGETS['p99']:.0f}×")):
        quiet, busy = (percentile(answers[part], share) for part in _PARTS)
        lines.append(f"| answer, p{share} (ms) | {quiet:.0f} | {busy:.0f} | {busy / quiet:.2f}× | {goal} |")
    alone, beside = (median(one[name] for one in found) for name in ("alone", "beside"))
    others = results["others"]
    company = f" Other programs took {others:.0%} of the machine meanwhile." if others >= 0.1 else ""
    return [
        *lines,
        f"| training steps per second | {alone:.2f} | {beside:.2f} | {by['training']:.2f}× | ≥ {TARGETS['training']}× |",
        "",
        f"`starloop up` with its own engine on the starter, {CONNECTIONS} connections, {len(answers['quiet'])} and "
        f"{len(answers['busy'])} answers of at most {_MAX_TOKENS} tokens in {len(found)} rounds of {results['seconds']:g} s each; the client "
        f"shares the cores too. The training is the starter's by default settings, past {WARM_UP} steps.{company}",
        "",
    ]


def _short(part: Any) -> Any:
    """Without every single time."""
    if not isinstance(part, dict):
        return part
    return {**part, "milliseconds": percentile(part["milliseconds"], 99)}


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train_serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each part of a round")
    chosen = parser.parse_args(arguments)
    peers.FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=peers.FOLDER) as name:
        results = serving(Path(name), chosen.rounds, chosen.seconds)
    for line in ["# Serving while a training runs", "", f"Machine: {machine()}.", "", *table(results)[2:]]:
        show(line)


if __name__ == "__main__":
    main()
