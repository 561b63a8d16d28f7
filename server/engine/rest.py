"""Puts the managed engines to sleep while the loop asks for it: they finish what they answer, end, and start again after.

They are ended rather than put into vLLM's sleep mode: that is for GPUs alone, keeps part of the memory, and opens the
engine's developer routes. The price is a start of the engine when it wakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from feedback.asleep import found_asleep, wanted_asleep
from feedback.errors import StarloopError
from feedback.settings import Engine, Settings
from server.processes.child import Child, wait_before
from server.processes.ports import reachable_host

_SETTLE_SECONDS = 3.0
"""By then every gateway worker has heard of it and sends nothing more."""
_TRIES = 5
"""How often it is tried to let them sleep, before that is given up until a training asks for it anew."""
_BUSY = (b"vllm:num_requests_running{", b"vllm:num_requests_waiting{")


class Rest:
    """When the engines sleep. Driven by the supervisor, which starts none of `children` while `wanted`."""

    def __init__(
        self,
        children: Sequence[Child],
        busy: Callable[[], bool],
        directory: Path,
        drain_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        """`busy` says whether one of them still answers something; that is waited for `drain_seconds` long."""
        self.children = children
        self._busy, self._drain, self._say = busy, drain_seconds, say
        self._wanted, self._found = wanted_asleep(directory), found_asleep(directory)
        self._since: float | None = None
        self._failures, self._next_try = 0, 0.0
        self._blind = False
        self._held: ExitStack | None = None

    @property
    def wanted(self) -> bool:
        """Whether they sleep or are about to."""
        return self._since is not None

    def tick(self, now: float) -> None:
        """See what the loop wants, and do it."""
        try:
            why = self._wanted.told()
        except OSError as error:  # whether a training wants it is not known: all stays as it is
            if not self._blind:
                self._say(
                    f"engines: {self._wanted.path} cannot be read ({error.strerror}); loop and engines must run as one user"
                )
            self._blind = True
            return
        self._blind = False
        if why is None:
            self._wake()
        elif self._since is None:
            self._since = now
            self._say(f"engines: going to sleep {why}")
        elif (
            self._held is None
            and self._failures < _TRIES
            and now >= self._next_try
            and self._drained(now - self._since)
        ):
            self._sleep(now)

    def _drained(self, waited: float) -> bool:
        return waited >= _SETTLE_SECONDS and (waited >= self._drain or not self._busy())

    def _sleep(self, now: float) -> None:
        left = [one.pid for child in self.children for one in child.stop()]
        if left:
            pids = ", ".join(map(str, left))
            self._failed(now, f"process {pids} could not be ended", f"kill -9 {' '.join(map(str, left))}")
            return
        held = ExitStack()
        try:
            held.enter_context(self._found.held("yes"))
        except StarloopError as error:
            self._failed(now, str(error), "mend that")
            return
        self._held = held
        self._say("engines: asleep")

    def _failed(self, now: float, why: str, advice: str) -> None:
        self._failures += 1
        if self._failures < _TRIES:
            wait = wait_before(self._failures)
            self._next_try = now + wait
            self._say(f"engines: {why}; trying again in {wait:.0f} s")
            return
        self._say(
            f"engines: {why}; given up after {_TRIES} tries, so this training does not begin, and they start again when it is "
            f"left. Do this by hand: {advice}"
        )

    def _wake(self) -> None:
        if self._held is not None:
            self._say("engines: waking up")
            self._held.close()
        self._since = self._held = None
        self._failures, self._next_try = 0, 0.0


def rest_of(
    settings: Settings, engines: Sequence[Engine], children: Sequence[Child], say: Callable[[str], None]
) -> Rest | None:
    """That of these engines, where `[training] engine_asleep` is set."""
    if not settings.training.engine_asleep:
        return None
    return Rest(children, lambda: answering(engines), settings.directory, settings.server.drain_seconds, say)


def answering(engines: Sequence[Engine]) -> bool:
    """Whether one of these engines, each on this machine, has requests under way."""
    return any(_under_way(engine) for engine in engines)


def _under_way(engine: Engine) -> bool:
    connection = HTTPConnection(reachable_host(engine.host), engine.port, timeout=2.0)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().splitlines()
        return any(float(line.rsplit(b" ", 1)[1]) > 0 for line in lines if line.startswith(_BUSY))
    except (OSError, HTTPException, ValueError, IndexError):  # gone, or no engine of ours
        return False
    finally:
        connection.close()
