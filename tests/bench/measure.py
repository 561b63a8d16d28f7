"""One measurement: one contender, one kind of load, some seconds."""

from __future__ import annotations

import json
import os
import subprocess
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import peers
from tests.bench.contenders import Contender, ask
from tests.bench.usage import cpu_by_thread, memory, wait_until_quiet

_PATIENCE = 30.0


class Load(NamedTuple):
    """How a contender is loaded."""

    streamed: bool
    connections: int

    @property
    def name(self) -> str:
        return f"{'streaming' if self.streamed else 'plain'}, {self.connections}"


def measure(
    contender: Contender, load: Load, seconds: float, station: subprocess.Popen[Any], folder: Path
) -> dict[str, Any]:
    """Load a contender; what it brought, and what that took of the machine.

    CPU is counted until nothing of the load is left to do, so a queue that drains later is in it, and shared out over
    what reached the engine, so what was under way at the end is too.
    """
    root = contender.process.pid if contender.process else station.pid
    wait_until_quiet(root, _PATIENCE)
    before, asked = cpu_by_thread(root), ask(station, {"asked": True})["asked"]
    if not contender.url:
        assert contender.process is not None
        command = {"connections": load.connections, "seconds": seconds, "streamed": load.streamed}
        result: dict[str, Any] = ask(contender.process, command)
    elif load.streamed:
        load_it: dict[str, Any] = {
            "url": contender.url,
            "headers": {"content-type": "application/json", **contender.headers},
            "body": contender.body,
            "connections": load.connections,
            "seconds": seconds,
        }
        result = ask(station, load_it)
    else:
        result = _wrk(contender, load.connections, seconds, folder)
    if "requests" in result:
        result["requests_per_second"] = result["requests"] / result["seconds"]
        if not result["requests"]:  # nothing was answered in that time, so there is no latency
            result["p50_ms"] = result["p99_ms"] = float("nan")
    wait_until_quiet(root, _PATIENCE)
    after = cpu_by_thread(root)
    reached = ask(station, {"asked": True})["asked"] - asked
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    result["cpu_us"] = sum(spent.values()) / max(reached, 1) * 1e6
    result["cpu_us_by_thread"] = _largest(spent, reached)
    result["memory_mb"] = memory(root)
    return result


def _largest(spent: dict[str, float], reached: int) -> dict[str, float]:
    """Microseconds per request of the threads that took any part worth telling."""
    shares = {
        name: seconds / max(reached, 1) * 1e6
        for name, seconds in sorted(spent.items(), key=itemgetter(1), reverse=True)
    }
    return {name: share for name, share in shares.items() if share >= 0.5}


def _wrk(contender: Contender, connections: int, seconds: float, folder: Path) -> dict[str, Any]:
    request = folder / "request.txt"
    headers = {"content-type": "application/json", **contender.headers}
    head = "".join(f"{name}: {value}\n" for name, value in headers.items())
    request.write_text(f"{head}\n{json.dumps(contender.body)}")
    script = Path(__file__).with_name("wrk.lua")
    command = [*peers.debian("wrk"), "-t1", f"-c{connections}", f"-d{seconds:.0f}", "--timeout", "30"]
    done = subprocess.run(
        [*command, "-s", str(script), contender.url],
        env={**os.environ, "BENCH_REQUEST": str(request)},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
