"""One supervised child: started in a session of its own, watched, started again with back-off, ended whole.

Knows nothing of what the child does: whether it is ready is asked of a function. Time is passed in; it waits only
where it ends something.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from feedback.errors import StorageError, UnavailableError
from server.processes.family import Identity, alive, end, family, identify
from server.processes.leash import tie_to
from server.processes.logfile import last_words, open_log, trim_log
from server.processes.record import ProcessRecord, remove_record, write_record

State = Literal["stopped", "starting", "ready", "waiting", "failed"]

_LOOK_SECONDS = 1.0  # between two looks at whom it has started
_HEALTH_SECONDS = 5.0
_SETTLED_SECONDS = 5.0
_TRIES = 3
_LONGEST_WAIT = 60.0
_USAGE = 2  # exit status of a command line that is wrong: trying again cannot help


@dataclass(frozen=True)
class Launch:
    """What to run."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: Path


@dataclass(frozen=True)
class Terms:
    """How long a child may take, in seconds, and whether the others can do without it."""

    start: float
    grace: float
    """From SIGTERM to SIGKILL."""
    remnants: float = 5.0
    """The same for what is left when the child itself has ended."""
    unhealthy: float = 60.0
    """A child that was ready and has not answered for this long is started again."""
    essential: bool = True
    """Nothing works without it: when it can never start, all is ended. Others are tried for ever."""


def wait_before(failures: int) -> float:
    """Seconds before the next start after so many failures in a row: 1, 2, 4 … 60."""
    return min(_LONGEST_WAIT, 2.0 ** max(0, failures - 1))


class Child:
    """A process under supervision; drive it with `tick`."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        terms: Terms,
        directory: Path,
        owner: Identity,
        say: Callable[[str], None],
        ready: Callable[[], bool] | None = None,
        port: int | None = None,
        hint: str = "",
    ) -> None:
        """`directory` is the data directory, where records and logs go; `say` tells the operator in one line.

        Without `ready`, a child counts as ready once it has lived for 5 s.
        """
        self.name = name
        self.essential = terms.essential
        self.hint = hint
        """What to know while it starts."""
        self.state: State = "stopped"
        self.was_ready = False
        self.log = directory / "logs" / f"{name}.log"
        self._launch, self._terms, self._ready, self._say = launch, terms, ready, say
        self._run = directory / "run"
        self._owner, self._port = owner, port
        self._process: subprocess.Popen[bytes] | None = None
        self._record: ProcessRecord | None = None
        self._written: ProcessRecord | None = None
        self._failures = 0
        self._since = self._next_start = self._next_look = self._next_health = self._healthy = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    def begin(self, now: float) -> bool:
        """Start it; whether that went well. Where it did not, it is tried again as one that ended is."""
        try:
            self.start(now)
        except (UnavailableError, StorageError) as error:
            self._failed(now, str(error).removeprefix(f"{self.name}: "), None)
            return False
        return True

    def start(self, now: float) -> None:
        """Start it. Raises `UnavailableError` when there is nothing to execute, no room for another process, or one of its
        last run that cannot be ended; `StorageError` without a log."""
        if self._record is not None and (left := self._end_family([], 0.0)):
            raise UnavailableError(
                f"{self.name}: cannot be started: process {', '.join(str(one.pid) for one in left)} of its last run could not "
                "be ended"
            )
        with open_log(self.log) as log:
            try:
                self._process = subprocess.Popen(
                    list(self._launch.argv),
                    env=dict(self._launch.environment),
                    cwd=self._launch.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=partial(tie_to, os.getpid()),
                )
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                raise UnavailableError(f"{self.name}: cannot be started: {error}") from error
        self.state, self._since, self._next_look = "starting", now, now
        self._look(now)

    def tick(self, now: float) -> None:
        """See to it: notice that it is ready, hung or gone, and start it again when that is due."""
        if self.state == "waiting" and now >= self._next_start:
            self.begin(now)
        if self._process is None:
            return
        status = self._process.poll()
        if status is not None:
            self._ended(now, status)
            return
        if now >= self._next_look:
            self._look(now)
            trim_log(self.log)
        if self.state == "starting":
            self._await_ready(now)
        elif self.state == "ready":
            self._check_health(now)

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> list[Identity]:
        """SIGTERM, a wait for the grace that it has (none once `hurry()`), then the end of all it has started.

        Returns those that could not be ended; asked again, it tries again to end them.
        """
        self.state = "stopped"
        process, self._process = self._process, None
        if self._record is None:
            return []
        members = family(self._record.leader, self._record.members)
        if process is None:
            return self._end_family(members, 0.0)
        process.terminate()
        deadline = time.monotonic() + self._terms.grace
        while process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(0.05)
        left = self._end_family(members, 0.0 if hurry() else self._terms.remnants)
        process.poll()
        return left

    def _await_ready(self, now: float) -> None:
        if self._serves(now):
            self.state, self.was_ready, self._healthy = "ready", True, now
            self._next_health = now + _HEALTH_SECONDS
            self._say(f"{self.name}: ready ({now - self._since:.0f} s)")
        elif now - self._since > self._terms.start:
            self._give_up_on(now, f"was not ready after {self._terms.start:.0f} s")

    def _serves(self, now: float) -> bool:
        return now - self._since >= _SETTLED_SECONDS if self._ready is None else self._ready()

    def _check_health(self, now: float) -> None:
        if now < self._next_health:
            return
        self._next_health = now + _HEALTH_SECONDS
        if self._serves(now):
            self._healthy = now
        elif now - self._healthy > self._terms.unhealthy:
            self._give_up_on(now, f"has not answered for {now - self._healthy:.0f} s")

    def _give_up_on(self, now: float, why: str) -> None:
        """End a process that runs but does not serve."""
        said = last_words(self.log)
        self._end_family([], 0.0)
        assert self._process is not None
        self._process.poll()
        self._failed(now, why, None, said)

    def _ended(self, now: float, status: int) -> None:
        said = last_words(self.log)  # before what is left of it adds its own
        self._end_family([], self._terms.remnants)
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        self._failed(now, ended, status, said)

    def _failed(self, now: float, why: str, status: int | None, said: Sequence[str] = ()) -> None:
        if self.state == "ready" and now - self._since > _LONGEST_WAIT:
            self._failures = 0
        self._failures += 1
        self._process = None
        for line in said:
            self._say(f"  {line}")
        hopeless = status == _USAGE or self._failures >= _TRIES
        if hopeless and self.essential and not self.was_ready:
            self.state = "failed"
            self._say(f"{self.name}: {why}; see {self.log}")
            return
        wait = wait_before(self._failures)
        self.state, self._next_start = "waiting", now + wait
        self._say(f"{self.name}: {why}; starting again in {wait:.0f} s (log: {self.log})")

    def _look(self, now: float) -> None:
        """Write down whom it has started by now: they outlive it when it is killed."""
        assert self._process is not None
        self._next_look = now + _LOOK_SECONDS
        leader = identify(self._process.pid)
        if leader is None:
            return
        members = [member for member in family(leader) if member != leader]
        record = ProcessRecord(self.name, leader, leader.pid, self._owner, self._port, members)
        self._record = record
        if record != self._written:
            try:
                write_record(self._run, record)
                self._written = record
            except OSError:
                return  # the disk is full: that must not end what runs; it is tried again

    def _end_family(self, members: Sequence[Identity], grace: float) -> list[Identity]:
        """End all that is left of it, and forget the record once nothing is."""
        if self._record is None:
            return []
        known = [*self._record.members, *members]
        left = end(family(self._record.leader, known), grace)
        # One look more: a process may have started another while it was being ended.
        left = [member for member in end(family(self._record.leader, known), 0.0) if alive(member)] or left
        if not left:
            with suppress(OSError):  # the next start finds that they are gone
                remove_record(self._run, self._record)
            self._record = None
        return left
