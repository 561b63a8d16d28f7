"""What a run brought, as a table and as JSON. Comparisons are medians over the rounds of ratios within a round."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.measure import Load

OURS, DIRECT = "starloop", "direct"
_Results = dict[str, list[dict[str, Any]]]


@dataclass
class Run:
    """All measurements of a run: by load, then by contender, one for each round."""

    seconds: int
    rounds: int
    command: str
    others: float | None = None
    """Share of the machine that other programs took meanwhile; None when that is not known."""
    notes: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    results: dict[str, _Results] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)

    def add(self, load: Load, contender: str, result: dict[str, Any]) -> None:
        if load not in self.loads:
            self.loads.append(load)
        self.results.setdefault(load.name, {}).setdefault(contender, []).append(result)

    def ratio(self, load: str, one: str, other: str, value: str) -> float:
        """The median over the rounds of one's value by the other's."""
        return self._compare(load, one, other, value, lambda a, b: a / b if b else float("nan"))

    def added(self, load: str, contender: str, value: str) -> float:
        """The median over the rounds of what a contender adds to `direct`."""
        return self._compare(load, contender, DIRECT, value, lambda a, b: a - b)

    def middle(self, load: str, contender: str, value: str) -> float:
        return float(median(result[value] for result in self.results[load][contender]))

    def _compare(
        self, load: str, one: str, other: str, value: str, how: Callable[[float, float], float]
    ) -> float:
        found = self.results[load]
        if one not in found or other not in found:
            return float("nan")
        return median(how(a[value], b[value]) for a, b in zip(found[one], found[other], strict=False))

    def table(self) -> str:
        """The whole report in Markdown."""
        lines = [*_opening(self), *_headline(self)]
        for load in self.loads:
            lines += _load_table(self, load)
        lines += ["## Who took part", ""]
        lines += [f"- {name}: {note}" for name, note in self.notes.items()]
        lines += [f"- {name}: left out, {reason}" for name, reason in self.missing.items()]
        return "\n".join([*lines, ""])


def write(run: Run, path: Path) -> None:
    """The table, and all single measurements as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run.table(), encoding="utf-8")
    content: dict[str, Any] = {
        "machine": machine(),
        "command": run.command,
        "contenders": run.notes,
        "missing": run.missing,
    }
    content |= {"seconds": run.seconds, "others": run.others, "results": run.results}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _opening(run: Run) -> list[str]:
    return [
        "# The gateway beside others",
        "",
        f"`{run.command}`, {datetime.now(UTC):%Y-%m-%d}: {run.rounds} rounds of {run.seconds} s for each line, everybody in "
        "turns. All of it, the client and the static engine too, shares the same cores. Figures are medians over the "
        "rounds; ratios and differences are taken within a round first.",
        "",
        f"Machine: {machine()}.{_company(run.others)}",
        "",
    ]


def _company(others: float | None) -> str:
    return "" if others is None else f" Other programs took {others:.0%} of it meanwhile."


def _headline(run: Run) -> list[str]:
    """This gateway's figures in short."""
    lines = ["## In short", ""]
    plain, single, streams = (Load(False, 32).name, Load(False, 1).name, Load(True, 32).name)
    if plain in run.results and OURS in run.results[plain]:
        for peer in ("TensorZero embedded", "LiteLLM", "Portkey", "nginx", "starloop, no capture"):
            if peer in run.results[plain]:
                ratio = run.ratio(plain, OURS, peer, "requests_per_second")
                lines.append(f"- requests/s at 32 connections: {ratio:.2f}× {peer}")
        drained = median(
            result["cpu_us_by_thread"].get("drainer", 0.0) for result in run.results[plain][OURS]
        )
        spent = [result["cpu_us"] for result in run.results[plain][OURS]]
        lines.append(
            f"- CPU per request at 32 connections: {median(spent):.0f} µs ({min(spent):.0f} to {max(spent):.0f} in the "
            f"rounds), {drained:.0f} µs of it the drainer's"
        )
        if "TensorZero embedded" in run.results[plain]:
            ratio = run.ratio(plain, OURS, "TensorZero embedded", "cpu_us")
            lines.append(f"- CPU per request at 32 connections: {ratio:.2f}× TensorZero embedded's")
    if single in run.results and OURS in run.results[single]:
        half, most = (run.added(single, OURS, value) for value in ("p50_ms", "p99_ms"))
        lines.append(f"- added latency at 1 connection: p50 {half:.2f} ms, p99 {most:.2f} ms")
    if streams in run.results and OURS in run.results[streams]:
        first = (
            run.added(Load(True, 1).name, OURS, "first_p50_ms")
            if Load(True, 1) in run.loads
            else float("nan")
        )
        lines.append(f"- added time to first chunk at 1 connection: p50 {first:.2f} ms")
        if "LiteLLM" in run.results[streams]:
            ratio = run.ratio(streams, OURS, "LiteLLM", "chunks_per_second")
            lines.append(f"- chunks/s at 32 streams, one by one: {ratio:.1f}× LiteLLM")
    return [*lines, ""]


def _load_table(run: Run, load: Load) -> list[str]:
    kind, unit = ("streams of 64 chunks", "chunks") if load.streamed else ("plain answers", "requests")
    speed = f"{unit}_per_second"
    half, most = ("first_p50_ms", "first_p99_ms") if load.streamed else ("p50_ms", "p99_ms")
    name = load.name
    lines = [
        f"## {load.connections} connection{'s' if load.connections > 1 else ''}, {kind}",
        "",
        f"| | {unit}/s | × starloop | added {'first chunk' if load.streamed else 'latency'} p50 (ms) | p99 (ms) "
        "| CPU µs per request | memory MB | failed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for contender in run.results[name]:
        failed = sum(result["failures"] for result in run.results[name][contender])
        cells = [
            f"{run.middle(name, contender, speed):,.0f}",
            f"{run.ratio(name, contender, OURS, speed):.2f}",
            "–" if contender == DIRECT else f"{run.added(name, contender, half):.2f}",
            "–" if contender == DIRECT else f"{run.added(name, contender, most):.2f}",
            f"{run.middle(name, contender, 'cpu_us'):,.0f}",
            f"{run.middle(name, contender, 'memory_mb'):,.0f}",
            f"{failed:.0f}",
        ]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return [*lines, ""]


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "litestar", "msgspec", "uvloop"))
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}, {packages}"
