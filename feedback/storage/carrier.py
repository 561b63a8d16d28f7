"""Carries one journal's records to the database: in the process that asks, or in one of its own.

A busy gateway worker has one interpreter, and each record takes some ten microseconds of it on its way to the database.
`Apart` spends them in a process beside the worker, which reads the same journal and is told line by line what to bring.
It ends when the worker does, however that dies, as its input ends then.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from feedback.errors import StarloopError, UnavailableError
from feedback.logs import Form, configure
from feedback.storage.batches import BATCH, bring
from feedback.storage.database import Database
from feedback.storage.journal import Journal
from feedback.storage.journal_reader import JournalReader
from feedback.threads import name_this_thread

_STEP = 8 * BATCH
"""Records between two answers, and in one transaction where no event loop waits for this interpreter: a third less time for each than with `BATCH`."""
_END_SECONDS = 20.0

log = logging.getLogger(__name__)


class Task(Struct):
    """What the process is told first: which journal, and where to."""

    url: str
    sync: Literal["os", "disk"]
    directory: str
    journal: str
    log: Form = "text"


class Order(Struct):
    """Bring what stands above `after`, up to `goal`."""

    after: int
    goal: int


class Carried(Struct):
    """How far it came: records up to `position` are safe, `stored` of them were new."""

    position: int
    stored: int = 0
    problem: str = ""
    away: bool = False
    """The problem passes: the database did not answer."""


class Carrier(Protocol):
    def carry(self, after: int, goal: int) -> Carried:
        """Bring some of the records above `after`, at least one. What went wrong stands in the answer's `problem`."""

    def close(self) -> None: ...


class Here:
    """Carries in the calling thread."""

    def __init__(
        self,
        reader: Journal | JournalReader,
        path: Path,
        database: Database,
        directory: Path,
        batch: int = BATCH,
    ) -> None:
        self._batch = batch
        self._reader = reader
        self._path = path
        self._database = database
        self._directory = directory

    def carry(self, after: int, goal: int) -> Carried:
        carried = Carried(after)
        try:
            while carried.position < min(goal, after + _STEP):
                entries = self._reader.read(carried.position, self._batch, goal)
                carried.stored += bring(self._database, self._directory, self._path.name, entries)
                carried.position = entries[-1].seq
        except StarloopError as error:
            carried.problem, carried.away = str(error), isinstance(error, UnavailableError)
        return carried

    def close(self) -> None:
        """The reader is its owner's."""


class Apart:
    """Carries in a process of its own, and in another one when that died."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    def carry(self, after: int, goal: int) -> Carried:
        try:
            return self._ask(Order(after, goal))
        except (OSError, msgspec.DecodeError) as error:
            self.close()
            return Carried(
                after, problem=f"the drainer's process died ({error}); another one is started", away=True
            )

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):  # it died with an order unread
            process.stdin.close()
        process.stdout.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ask(self, order: Order) -> Carried:
        if self._process is None:
            self._start()
        self._tell(order)
        assert self._process is not None and self._process.stdout is not None
        return msgspec.json.decode(self._process.stdout.readline(), type=Carried)

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "feedback.storage.carrier"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._tell(
            self._task
        )  # not on the command line, which anybody may read: the address holds a password

    def _tell(self, message: Struct) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        self._process.stdin.flush()


def main() -> None:
    """The process itself: orders on standard input until it ends."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)  # sent to the whole group; there are last records to bring yet
    name_this_thread("drainer")
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    configure(task.log)
    path = Path(task.journal)
    database = Database(task.url, task.sync)
    reader = JournalReader(path)
    here = Here(reader, path, database, Path(task.directory), _STEP)
    try:
        for line in sys.stdin.buffer:
            order = msgspec.json.decode(line, type=Order)
            told = msgspec.json.encode(here.carry(order.after, order.goal)) + b"\n"
            os.write(sys.stdout.fileno(), told)
    except BrokenPipeError:
        pass  # the worker died meanwhile; others adopt its journal
    except Exception:  # the process's boundary: the worker starts another one
        log.exception("the drainer's process ends")
        sys.exit(1)
    reader.close()
    database.close()


if __name__ == "__main__":
    main()
