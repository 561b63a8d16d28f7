"""A process with everything it started, told apart from strangers that were given the same number later.

vLLM leaves its workers alive when its front process is killed; so ending a process is never enough.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil
from msgspec import Struct

_TOLERANCE = 1.0  # seconds by which two readings of one start time may differ
_KILL_SECONDS = 10.0  # a killed process of many gigabytes takes a while to give them back


class Identity(Struct, frozen=True):
    """A process number with the moment it was given out (Unix seconds): numbers come back, pairs do not."""

    pid: int
    created: float


def identify(pid: int) -> Identity | None:
    """Who holds the number now; None when nobody does, or only a dead process that nobody collected yet."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, process.create_time())
    except psutil.Error:
        return None


def myself() -> Identity:
    """This process."""
    return Identity(os.getpid(), psutil.Process().create_time())


def alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    present = identify(identity.pid)
    return present is not None and abs(present.created - identity.created) <= _TOLERANCE


def family(leader: Identity, known: Iterable[Identity] = ()) -> list[Identity]:
    """The living among `leader` and `known`, with their descendants and the members of the leader's own session.

    The session counts only while one who surely belongs to it is alive: after that its number may be someone else's.
    """
    sure = [identity for identity in {leader, *known} if alive(identity)]
    found = {identity.pid: identity for identity in sure}
    others = [pid for identity in sure for pid in _descendants(identity.pid)]
    if any(_session(identity.pid) == leader.pid for identity in sure):
        others += [pid for pid in psutil.pids() if _session(pid) == leader.pid]
    for pid in others:
        if pid not in found and (identity := identify(pid)) is not None:
            found[pid] = identity
    return sorted(found.values(), key=lambda identity: identity.pid)


def end(members: Sequence[Identity], grace: float) -> list[Identity]:
    """SIGTERM to each, SIGKILL to those alive `grace` seconds later; returns who is alive even so."""
    for member in members:
        send(member, signal.SIGTERM)
    stubborn = await_end(members, grace)
    for member in stubborn:
        send(member, signal.SIGKILL)
    return await_end(stubborn, _KILL_SECONDS)


def send(member: Identity, number: signal.Signals) -> None:
    """Send a signal to this very process, or to nobody."""
    if alive(member):
        with suppress(ProcessLookupError):
            os.kill(member.pid, number)


def await_end(members: Sequence[Identity], seconds: float) -> list[Identity]:
    """Wait for all to end; returns those that have not. Collects no exit status, so that `Popen` still finds it."""
    deadline = time.monotonic() + seconds
    left = [member for member in members if alive(member)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [member for member in left if alive(member)]
    return left


def _descendants(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
