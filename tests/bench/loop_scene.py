"""A data directory of `make bench-loop` with its configuration, and `starloop up` over it while it runs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

CONFIGURATION = """\
[storage]
directory = "{directory}"
[server]
port = {port}
[[engine]]
base = "{base}"
port = {engine_port}
max_lora_rank = {rank}
[[model]]
name = "assistant"
base = "{base}"
mode = "auto"
labels = {labels}
constrain = {constrain}
examples = "{examples}"
[dataset]
evaluation_share = {share}
replay = {replay}
[training]
rank = {rank}
threads = {threads}
[canary]
share = 0
holdback = 0
[schedule]
cron = ""
"""


@dataclass
class Scene:
    """A configured data directory, and the server over it while it runs."""

    folder: Path
    configuration: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "server.command", "up", "--config", str(self.configuration)]
        self.process = subprocess.Popen(
            command,
            stdout=(self.folder / "up.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.address}/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        self.stop()
        raise RuntimeError((self.folder / "up.log").read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def command(self, *arguments: str) -> dict[str, Any]:
        """What a command reports with `--json`."""
        command = [sys.executable, "-m", "server.command", *arguments, "--json", "--config"]
        done = subprocess.run(
            [*command, str(self.configuration)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"starloop {' '.join(arguments)}: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def command_line() -> argparse.ArgumentParser:
    """What `python -m tests.bench.loop` takes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loop")
    parser.add_argument("--data", choices=("snips", "banking77"), default="snips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=18_000, help="how many requests users send in all")
    parser.add_argument(
        "--base-share",
        type=float,
        default=0.75,
        help="of the base examples that teach, what the base learned",
    )
    parser.add_argument(
        "--old-share", type=float, default=0.25, help="of the prompts, those of labels that the base knows"
    )
    parser.add_argument("--golden", type=int, default=900, help="golden cases drawn over all cycles")
    parser.add_argument("--evaluation-share", type=float, default=0.35)
    parser.add_argument("--replay", type=float, default=10.0)
    parser.add_argument("--liars", type=float, default=0.0, help="share of the users who lie")
    parser.add_argument(
        "--constrain", action="store_true", help="answers are held to the labels while written"
    )
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder for everything it makes")
    parser.add_argument("--output", type=Path, help="Markdown file to add the table to")
    return parser


def write_chats(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Prompts with their answers as OpenAI chat JSONL."""
    with path.open("w", encoding="utf-8") as file:
        for text, label in rows:
            chat = [{"role": "user", "content": text}, {"role": "assistant", "content": label}]
            file.write(json.dumps({"messages": chat}, ensure_ascii=False) + "\n")
