"""The process beside the contenders: the static engine, and the client of the streaming load.

`python -m tests.bench.station` prints its port, then answers commands (a line of JSON each) on standard input:
`{"asked": true}` tells how many completions were asked for; `{"url", "headers", "body", "connections", "seconds"}` runs
a streaming load, with `stream number N` appended to the body's last message.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from tests.bench import peers
from tests.bench.streams import load
from tests.bench.upstream import Upstream, UpstreamConnection


@contextmanager
def stationed(keep: bool = False) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """A running station, a folder for a run (deleted after it unless `keep`), and the static engine's port."""
    peers.FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=peers.FOLDER))
    command = [sys.executable, "-m", "tests.bench.station"]
    process = subprocess.Popen(
        command, cwd=peers.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, folder, json.loads(process.stdout.readline())["port"]
    finally:
        process.terminate()
        process.wait()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    upstream = Upstream()
    server = await loop.create_server(lambda: UpstreamConnection(upstream), "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await _obey(upstream, json.loads(line))), flush=True)


async def _obey(upstream: Upstream, command: dict[str, Any]) -> dict[str, float]:
    if "asked" in command:
        return {"asked": upstream.asked}
    address = urlsplit(command["url"])
    host, port = address.hostname or "", address.port or 80
    request = _requests(address.path, f"{host}:{port}", command["headers"], command["body"])
    result = await load(upstream, host, port, request, command["connections"], command["seconds"])
    return result.summary()


def _requests(path: str, host: str, headers: dict[str, str], body: dict[str, Any]) -> Callable[[int], bytes]:
    """The request of the stream with a number, in HTTP's bytes."""
    mark = "stream number 0000000000"
    said = [
        *body["messages"][:-1],
        {**body["messages"][-1], "content": body["messages"][-1]["content"] + mark},
    ]
    data = json.dumps({**body, "messages": said, "stream": True}).encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(data)}"]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items())]).encode()
    before, _, after = data.partition(mark.encode())
    return lambda number: b"%b\r\n\r\n%bstream number %010d%b" % (head, before, number, after)


if __name__ == "__main__":
    uvloop.run(_serve())
