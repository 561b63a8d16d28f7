"""`make bench-memory`: does memory stay flat over many requests, and what do two workers bring over one."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.contenders import Bench, Contender
from tests.bench.measure import Load, measure
from tests.bench.report import machine
from tests.bench.station import stationed
from tests.bench.usage import memory_by_process

_CONNECTIONS = 32
_STEP_SECONDS = 10
_SETTLED = 0.2
"""Share of the requests after which memory is expected to be flat: caches and pools are full by then."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=7.0, help="the longest it may take")
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of one and of two workers; 0 leaves them out"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = ["# Memory and workers", "", f"Machine: {machine()}.", ""]
    with stationed() as (station, folder, port):
        bench = Bench(folder, port)
        contender = bench.captured()
        try:
            lines += _watch(contender, options, station, folder)
            if options.rounds:
                other = bench.captured(workers=2)
                try:
                    lines += _workers(contender, other, options.rounds, station, folder)
                finally:
                    other.stop()
        finally:
            contender.stop()
    text = "\n".join(lines)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


def _watch(contender: Contender, options: argparse.Namespace, station: Any, folder: Path) -> list[str]:
    """Load it in steps; a line for each tenth of the requests."""
    assert contender.process is not None
    done, failed, deadline = 0, 0, time.monotonic() + options.minutes * 60
    samples: list[tuple[int, dict[str, float]]] = []
    while done < options.requests and time.monotonic() < deadline:
        result = measure(contender, Load(False, _CONNECTIONS), _STEP_SECONDS, station, folder)
        done += int(result["requests"])
        failed += int(result["failures"])
        samples.append((done, memory_by_process(contender.process.pid)))
        print(f"{done:,} requests, {samples[-1][1]}", flush=True)
    settled = [sum(sizes.values()) for count, sizes in samples if count >= done * _SETTLED]
    middle = median(settled)
    spread = max(abs(size - middle) for size in settled) / middle * 100
    lines = [
        "## Memory",
        "",
        f"`make bench-memory` (at most {options.minutes:g} minutes): {done:,} captured requests over {_CONNECTIONS} connections, {failed} failed. After the first "
        f"{_SETTLED:.0%} of them memory of all processes together stayed within {spread:.1f} % of {middle:.0f} MB.",
        "",
        "| requests | " + " | ".join(f"{name} (MB)" for name in samples[0][1]) + " |",
        "|--:|" + "--:|" * len(samples[0][1]),
    ]
    for count, sizes in samples[:: max(1, len(samples) // 12)]:
        lines.append(f"| {count:,} | " + " | ".join(f"{size:.0f}" for size in sizes.values()) + " |")
    return [*lines, ""]


def _workers(one: Contender, two: Contender, rounds: int, station: Any, folder: Path) -> list[str]:
    """One worker and two, in turns."""
    ratios = []
    for _ in range(rounds):
        single, double = (
            measure(contender, Load(False, _CONNECTIONS), 3, station, folder)["requests_per_second"]
            for contender in (one, two)
        )
        ratios.append(double / single)
        print(f"two workers: {double:,.0f}/s, one: {single:,.0f}/s", flush=True)
    return [
        "## Workers",
        "",
        f"Two workers answer {median(ratios):.2f} × the requests/s of one at {_CONNECTIONS} connections (median of "
        f"{rounds} rounds in turns). The drainers, the client and the static engine share the cores with them.",
        "",
    ]


if __name__ == "__main__":
    main()
