"""`starloop demo`: the whole loop on the starter model, with simulated users, in a few minutes."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from feedback.errors import ConflictError, UnavailableError

_MARK = "demo.toml"
_CONFIGURATION = """\
# Written by `starloop demo`. Shares and sizes suit a few thousand simulated requests, not production.
[storage]
directory = "{directory}"
[server]
port = {port}
[[engine]]
base = "starter"
port = {engine_port}
max_lora_rank = 8          # vLLM's CPU kernels take time by this: 16 answers a fifth fewer requests
[[model]]
name = "assistant"
base = "starter"
mode = "auto"
[dataset]
evaluation_share = 0.35   # 12 % of the traffic may judge, 42 % may teach
replay = 8.0              # a model of two million parameters forgets more easily than a large one
[training]
rank = 8
threads = {threads}               # nobody waits for an answer while the demo trains
[canary]
share = 0                 # the gate alone decides, so that a turn takes minutes; by default users compare first, for a day
holdback = 0
[schedule]
cron = ""                 # cycles start when the demo asks for one
"""


@click.command(short_help="simulated users on the starter model until the loop has turned")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-data"),
    show_default=True,
    help="Where the demo keeps its data; what an earlier demo left there is replaced.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65534),
    default=8000,
    show_default=True,
    help="Port to serve on; the engine takes the port 100 above.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the simulated people.")
@click.option(
    "--turns",
    type=click.IntRange(1, 2),
    default=2,
    show_default=True,
    help="Turns of drift before the two poisoned ones.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("demo.json"),
    show_default=True,
    help="File for the tables.",
)
@click.option("--exit", "leave", is_flag=True, help="Stop the server at the end instead of leaving it on.")
def demo(data_dir: Path, port: int, seed: int, turns: int, json_file: Path, leave: bool) -> None:
    """Turn the loop with simulated users: two rounds of drift to learn, then two of lies to refuse.

    Users with known ground truth ask the starter model over HTTP, rate its answers and correct some. The loop
    retrains twice; then a few raters lie, first with the rater guards on, then with the guards switched off.
    The server keeps serving afterwards, until Ctrl-C.

    Example: starloop demo --seed 7 --json demo.json
    """
    console = Console()
    configuration = _prepare(data_dir, port)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "server.command", "up", "--config", str(configuration)],
        stdout=(data_dir / "up.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        with console.status("Starting engine, gateway and loop (the engine takes about 45 s) …"):
            _wait_ready(address, server, data_dir)
        asyncio.run(_tell(console, address, seed, turns, json_file))
        click.echo(_hint(configuration))
        if not leave:
            console.print(f"Serving at [bold]{address}/[/bold] until Ctrl-C.")
            server.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")
    finally:
        _stop(server)


def _hint(configuration: Path) -> str:
    """Without it, `starloop failures list` and the others would look at ./starloop-data."""
    return f"Other commands find this demo with: export STARLOOP_CONFIG={shlex.quote(str(configuration.absolute()))}"


def _prepare(data_dir: Path, port: int) -> Path:
    """An empty data directory with the demo's configuration; only a former demo's is ever replaced."""
    mark = data_dir / _MARK
    if data_dir.exists() and any(data_dir.iterdir()):
        if not mark.exists():
            raise ConflictError(f"{data_dir}: holds files that no demo made; choose another --data-dir")
        shutil.rmtree(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    cores = os.cpu_count() or 1
    threads = max(min(2, cores), cores - 1)
    text = _CONFIGURATION.format(
        directory=data_dir.absolute(), port=port, engine_port=port + 100, threads=threads
    )
    mark.write_text(text, encoding="utf-8")
    return mark


def _wait_ready(address: str, server: subprocess.Popen[bytes], data_dir: Path, seconds: float = 600) -> None:
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said = (data_dir / "up.log").read_text(errors="replace").strip()
            raise UnavailableError(f"the server ended at once (status {server.returncode}):\n{said[-3000:]}")
        try:
            if httpx.get(f"{address}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise UnavailableError(f"nothing was ready at {address} after {seconds:.0f} s; see {data_dir / 'logs'}")


async def _tell(console: Console, address: str, seed: int, turns: int, json_file: Path) -> None:
    # Imported here so that `starloop --help` stays quick.
    from server.demo.client import DemoClient
    from server.demo.story import Story
    from server.demo.tables import turns_table, versions_table, write_json

    started = time.monotonic()
    client = DemoClient(address)
    try:
        story = Story(client, console, seed)
        await story.tell(turns)
    finally:
        await client.close()
    console.print(versions_table(story.versions))
    console.print(turns_table(story.turns))
    write_json(json_file, story.versions, story.turns)
    console.print(f"Written to {json_file}; {time.monotonic() - started:.0f} s.")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
