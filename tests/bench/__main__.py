"""`make bench-gateway`: this gateway beside others, in turns, on the same cores, before the same static engine."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import peers
from tests.bench.contenders import STARTERS, Bench, Contender
from tests.bench.measure import Load, measure
from tests.bench.report import Run, write
from tests.bench.station import stationed
from tests.bench.usage import machine_busy, own_work

_LOADS = [Load(streamed, connections) for streamed in (False, True) for connections in (1, 32, 256)]


def main() -> None:
    options = _options()
    run = Run(options.seconds, options.rounds, " ".join(["make bench-gateway", *_arguments()]))
    with stationed(options.keep) as (station, folder, port):
        contenders: dict[str, Contender] = {}
        try:
            peers.debian("wrk")
            _start(options.contenders, Bench(folder, port), contenders, run)
            started, busy, own = time.monotonic(), machine_busy(), own_work()
            for number in range(options.rounds):
                for load in options.loads:
                    for contender in contenders.values():
                        result = measure(contender, load, options.seconds, station, folder)
                        run.add(load, contender.name, result)
                        _tell(f"round {number + 1} {load.name:15} {contender.name:22} {_short(result)}")
            others = machine_busy() - busy - (own_work() - own)
            run.others = max(0.0, others / (time.monotonic() - started) / (os.cpu_count() or 1))
        finally:
            for contender in contenders.values():
                contender.stop()
    if options.output:
        write(run, options.output)
    print(run.table())


def _start(names: list[str], bench: Bench, contenders: dict[str, Contender], run: Run) -> None:
    """Start those that can be started; why the others cannot is part of the report."""
    for name in names:
        _tell(f"starting {name}")
        try:
            contenders[name] = STARTERS[name](bench)
            run.notes[contenders[name].name] = contenders[name].note
        except peers.NotInstalledError as error:
            run.missing[name] = str(error)
            _tell(f"  left out: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gateway", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds of a second; some two minutes")
    parser.add_argument("--rounds", type=int, help="turns that everybody takes (3)")
    parser.add_argument("--seconds", type=int, help="length of one measurement (2)")
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=list(STARTERS))
    parser.add_argument("--loads", help="such as plain-32,streaming-1", default="")
    parser.add_argument(
        "--output", type=Path, help="Markdown file to write, JSON beside it; without it: to the terminal"
    )
    parser.add_argument("--keep", action="store_true", help="leave logs and data behind")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.seconds = options.seconds or (1 if options.quick else 2)
    named = {f"{'streaming' if load.streamed else 'plain'}-{load.connections}": load for load in _LOADS}
    options.loads = [named[name] for name in options.loads.split(",")] if options.loads else _LOADS
    return options


def _arguments() -> list[str]:
    return [f"ARGS='{' '.join(sys.argv[1:])}'"] if len(sys.argv) > 1 else []


def _short(result: dict[str, Any]) -> str:
    speed = result.get("requests_per_second") or result.get("chunks_per_second") or 0.0
    return f"{speed:10,.0f}/s  {result['cpu_us']:9,.0f} us  {result['failures']:.0f} failed  {result.get('stalls', 0):.0f} held back"


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
