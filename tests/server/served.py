"""The gateway as it is served: uvicorn in processes of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

_CONFIGURATION = """\
[storage]
directory = "{directory}"
database = "{database}"
[server]
port = {port}
workers = {workers}
[[engine]]
base = "starter"
urls = {urls}
[[model]]
name = "assistant"
"""


@dataclass(frozen=True)
class Served:
    """A running gateway."""

    address: str
    directory: Path
    process: subprocess.Popen[bytes]

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def free_port() -> int:
    """A port that the system gives to nobody else for a minute, and whoever asks for it by its number may listen on.

    A connection that ended there keeps it so; a port that was merely closed may be another's before it is used.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        with socket.create_connection(listening.getsockname()) as client:
            served, _ = listening.accept()
            served.close()  # who closes first keeps the address
            assert client.recv(1) == b""
        return int(listening.getsockname()[1])


@contextmanager
def served(directory: Path, urls: Sequence[str], workers: int = 1, database: str = "") -> Iterator[Served]:
    """`starloop serve` on a free port, ready to answer."""
    directory.mkdir(exist_ok=True)
    configuration = directory / "starloop.toml"
    port = free_port()
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory / "data", database=database, port=port, workers=workers, urls=list(urls)
        )
    )
    log = directory / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.command", "serve", "--config", str(configuration)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    gateway = Served(f"http://127.0.0.1:{port}", directory / "data", process)
    try:
        deadline = time.monotonic() + 60
        while not gateway.ready():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.1)
        yield gateway
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
