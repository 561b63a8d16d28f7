"""`starloop up` in a process of its own, with real vLLM and the loop, and nothing left of it afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.server.served import free_port

_CONFIGURATION = """\
[storage]
directory = "{directory}"
[server]
port = {port}
[[engine]]
base = "starter"
port = {engine_port}
[[model]]
name = "assistant"
"""


@dataclass(frozen=True)
class Up:
    """A Starloop that is up."""

    address: str
    directory: Path
    configuration: Path
    process: subprocess.Popen[bytes]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `starloop` answers, with the same configuration."""
        return subprocess.run(
            [sys.executable, "-m", "server.command", *arguments, "--config", str(self.configuration)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def trainings(self) -> list[psutil.Process]:
        """The processes that train just now."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "trainer.child" in process.cmdline():
                    found.append(process)
            except psutil.Error:  # it has just ended
                continue
        return found


@contextmanager
def up(folder: Path, more: str) -> Iterator[Up]:
    """Ready to answer; about 45 s. `more` goes on with the configuration where its `[[model]]` ends."""
    directory, configuration, log = folder / "data", folder / "starloop.toml", folder / "up.log"
    directory.mkdir()
    port = free_port()
    plain = _CONFIGURATION.format(directory=directory, port=port, engine_port=free_port())
    configuration.write_text(plain + more, encoding="utf-8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.command", "up", "--config", str(configuration)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Up(f"http://127.0.0.1:{port}", directory, configuration, process)
    try:
        _await_ready(started, log)
        yield started
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=90)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == [], "processes outlived `starloop up`"


def _await_ready(started: Up, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert started.process.poll() is None, log.read_text(errors="replace")
        try:
            if httpx.get(f"{started.address}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace"))
