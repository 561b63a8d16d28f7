"""TensorZero's embedded client under load, in a process of its own; runs in the environment that holds `tensorzero`.

`python -m tests.bench.embedded CONFIG UPSTREAM_PORT` answers commands like `station`: `{"connections", "seconds",
"streamed"}`. There is no HTTP server in front, as that is how its own numbers are made.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import Any

from tensorzero import AsyncTensorZeroGateway  # type: ignore[import-not-found]

from tests.bench.percentiles import percentile
from tests.bench.request import MESSAGES

_MODEL = "assistant"


class Load:
    """Calls of some seconds."""

    def __init__(
        self, gateway: AsyncTensorZeroGateway, release: asyncio.StreamWriter, seconds: float
    ) -> None:
        self._gateway = gateway
        self._release = release
        self._deadline = perf_counter() + seconds
        self.times: list[float] = []
        self.first: list[float] = []
        self.chunks = 0

    async def plain(self) -> None:
        """One call after the other."""
        while (started := perf_counter()) < self._deadline:
            await self._gateway.inference(model_name=_MODEL, input=_input(MESSAGES[1]["content"]))
            self.times.append((perf_counter() - started) * 1000)

    async def streamed(self, number: int) -> None:
        """One stream after the other; each chunk that arrives lets the engine send the next."""
        said = f"{MESSAGES[1]['content']} stream number {number}"
        while (started := perf_counter()) < self._deadline:
            stream = await self._gateway.inference(model_name=_MODEL, input=_input(said), stream=True)
            arrived = 0
            async for chunk in stream:
                if not chunk.content:
                    continue
                if not arrived:
                    self.first.append((perf_counter() - started) * 1000)
                arrived += 1
                self.chunks += perf_counter() < self._deadline
                self._release.write(b"RELEASE %d\r\n\r\n" % number)


def _input(content: str) -> dict[str, Any]:
    return {"system": MESSAGES[0]["content"], "messages": [{"role": "user", "content": content}]}


async def _obey(
    gateway: AsyncTensorZeroGateway, release: asyncio.StreamWriter, command: dict[str, Any]
) -> dict[str, float]:
    load, started = Load(gateway, release, command["seconds"]), perf_counter()
    calls = range(command["connections"])
    await asyncio.gather(
        *(load.streamed(number) if command["streamed"] else load.plain() for number in calls)
    )
    seconds = perf_counter() - started
    if command["streamed"]:
        return {
            "chunks_per_second": load.chunks / command["seconds"],
            "first_p50_ms": percentile(load.first, 50),
            "first_p99_ms": percentile(load.first, 99),
            "failures": 0,
            "stalls": 0,
        }
    return {
        "requests": len(load.times),
        "seconds": seconds,
        "p50_ms": percentile(load.times, 50),
        "p99_ms": percentile(load.times, 99),
        "failures": 0,
    }


async def _serve(config: str, port: int) -> None:
    gateway = await AsyncTensorZeroGateway.build_embedded(config_file=config)
    _, release = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    print(json.dumps({"ready": True}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await _obey(gateway, release, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
