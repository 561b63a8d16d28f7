"""A loop that is killed: a real gateway, `starloop loop` with real training of a tiny base, and a stand-in for vLLM.

The stand-in answers as versions would that had learned what users corrected, so that a cycle ends with a promotion; all
else is the product's own. A data directory is prepared once and put back before each cycle: every cycle begins alike.
"""

from __future__ import annotations

import os
import shutil
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
from sqlalchemy import select, update

from feedback.registry.bases import resolve_base
from feedback.storage.database import Database
from feedback.storage.hashing import content_hash
from feedback.storage.tables import Cycle
from feedback.storage.upsert import RECORD_TABLES
from tests.server.served import free_port
from tests.server.upstream import FakeEngine, fake_engine
from tests.trainer.world import MODEL, World, talented

_CONFIGURATION = """\
[storage]
directory = "{directory}"
[server]
port = {port}
[[engine]]
base = "{base}"
urls = ["{engine}"]
[[model]]
name = "assistant"
base = "{base}"
mode = "auto"
examples = "{examples}"
[dataset]
minimum_new = 20
evaluation_share = 0.5
[training]
threads = 1
batch = 8
epochs = 1
rank = 4
checkpoint_seconds = 0
[evaluation]
suite_limit = 200
max_tokens = 16
[promotion]
latency = 1.0
[canary]
{canary}
[schedule]
cron = ""
poll_seconds = 0.1
lease_seconds = 2.0
"""
_NO_CANARY = "share = 0\nholdback = 0"
_READY_SECONDS = 60.0
_STRAYS_SECONDS = 10.0


class CycleScene:
    """One prepared data directory, and the processes that work on it."""

    def __init__(
        self, folder: Path, make_base: Callable[[Path], object], engine: FakeEngine, canary: str = _NO_CANARY
    ) -> None:
        """`make_base` writes a tiny base into a folder that is there; `canary` is what `[canary]` says."""
        self.directory = folder / "data"
        self.configuration = folder / "starloop.toml"
        self._prepared = folder / "prepared"
        self._log = folder / "processes.log"
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._engine = engine
        self._canary = canary
        self._prepare(make_base)
        self._gateway: subprocess.Popen[bytes] | None = None
        self._loop: subprocess.Popen[bytes] | None = None

    # -- a cycle's beginning and end

    def begin(self) -> str:
        """Everything as it was prepared, a gateway on it, and a cycle asked for; its id. No loop runs yet."""
        self.put_back()
        asked = httpx.post(f"{self.address}/v1/cycles", json={"model": MODEL}, timeout=30, trust_env=False)
        assert asked.status_code == 202, asked.text
        return str(asked.json()["id"])

    def put_back(self) -> None:
        """Everything as it was prepared or kept, and a gateway on it."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self._prepared, self.directory)
        self._engine.loaded.clear()
        self._engine.seen.clear()
        self._gateway = self._start("serve")
        deadline = time.monotonic() + _READY_SECONDS
        while not self._ready():
            assert self._gateway.poll() is None and time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def keep(self) -> None:
        """Begin from here from now on; all processes have ended."""
        shutil.rmtree(self._prepared)
        shutil.copytree(self.directory, self._prepared)

    def open_database(self) -> Database:
        return Database(f"sqlite:///{self.directory / 'starloop.sqlite'}")

    def answered(self) -> int:
        """How many answers the engine was asked for since the cycle began."""
        return len(self._engine.completions())

    def told(self) -> str:
        """The end of what the processes logged."""
        return self._log.read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """End loop and gateway as SIGTERM does."""
        for process in (self._loop, self._gateway):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
        self._loop = self._gateway = None

    # -- the loop

    def start_loop(self) -> None:
        """`starloop loop`, as a process manager starts it again."""
        self._loop = self._start("loop")

    def kill_loop(self) -> None:
        """SIGKILL: the process can do nothing more, and its child is not told."""
        assert self._loop is not None
        self._loop.kill()
        self._loop.wait()

    def loop_runs(self) -> bool:
        return self._loop is not None and self._loop.poll() is None

    # -- what is there

    def children(self) -> list[psutil.Process]:
        """Child processes that work in the data directory: a training, or one that a killed loop left behind."""
        return [one for one in psutil.process_iter() if _works_in(one, str(self.directory))]

    def strays(self) -> list[str]:
        """Children that are still there though no loop is; they have a while to notice."""
        deadline = time.monotonic() + _STRAYS_SECONDS
        while (found := self.children()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [" ".join(_command(one)) for one in found]

    def files(self, cycle: Cycle) -> set[str]:
        """Files and folders that are left of a cycle, its own ids replaced by what they are."""
        names = {cycle.id: "CYCLE", cycle.dataset_id or "-": "DATASET"}
        found = set()
        for part in ("adapters", "bases", "datasets", "runs"):
            for path in (self.directory / part).rglob("*"):
                text = str(path.relative_to(self.directory))
                for identifier, name in names.items():
                    text = text.replace(identifier, name)
                found.add(text)
        return found

    # -- inside

    def _prepare(self, make_base: Callable[[Path], object]) -> None:
        """Users have corrected and people confirmed, so that a version that learned from them is promoted."""
        self._prepared.mkdir()
        database = Database(f"sqlite:///{self._prepared / 'starloop.sqlite'}")
        try:
            database.upgrade()
            world = World(database, self._prepared)
            world.users_correct(120)
            world.people_confirm(old=50, new=50)
            _seal(database)
        finally:
            database.close()
        beside = self._prepared.parent / "beside"  # neither base nor examples belong into a data directory
        beside.mkdir()
        base = (self._prepared / "tiny-base").rename(beside / "tiny-base")
        examples = (self._prepared / "examples.jsonl").rename(beside / "examples.jsonl")
        make_base(base)
        self._engine.base = resolve_base(str(base), self._prepared).engine_model
        shutil.rmtree(self._prepared / "bases")
        before, after = talented("old"), talented("old", "new")

        def answer(body: dict[str, Any]) -> str:
            knows = before if body["model"] == self._engine.base else after
            # A version is warmed up with a prompt that is no conversation.
            return knows(body["messages"][-1]["content"]) if "messages" in body else "warm"

        self._engine.answer = answer
        self.configuration.write_text(
            _CONFIGURATION.format(
                directory=self.directory,
                port=self._port,
                base=base,
                examples=examples,
                engine=self._engine.url,
                canary=self._canary,
            )
        )

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "server.command", command, "--config", str(self.configuration)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health/ready", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def cycle_scene(
    folder: Path, make_base: Callable[[Path], object], canary: str = _NO_CANARY
) -> Iterator[CycleScene]:
    """A prepared scene whose processes end with the block."""
    with fake_engine() as engine:
        engine.delay = 0.002
        on = CycleScene(folder, make_base, engine, canary)
        try:
            yield on
        finally:
            on.stop()


def _seal(database: Database) -> None:
    """Give the record's rows the hashes that the drainer writes, so that it verifies."""
    with database.session() as session:
        for table, kind in RECORD_TABLES:
            for found in session.connection().execute(select(table)).mappings().all():
                row = dict(found)
                del row["content_hash"]
                row.pop("current", None)
                sealed = (
                    update(table)
                    .where(table.c.id == row["id"])
                    .values(content_hash=content_hash(kind(**row)))
                )
                session.connection().execute(sealed)
        session.commit()


def _works_in(process: psutil.Process, directory: str) -> bool:
    command = _command(process)
    return "trainer.child" in command and any(part.startswith(directory) for part in command)


def _command(process: psutil.Process) -> list[str]:
    try:
        return [str(part) for part in process.cmdline()]
    except psutil.Error:  # it has just ended
        return []
