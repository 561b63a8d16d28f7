"""The gateway's workers: forks that each take connections from a socket of their own.

All sockets are bound to one address and stay open here, so the kernel spreads connections evenly, and those that wait
at a worker that died are taken up by the one in its place.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from server.processes.child import wait_before
from server.processes.leash import tie_to

Work = Callable[[socket.socket], None]
"""Serves on a socket until SIGTERM."""

BACKLOG = 2048
"""Connections that may wait at a socket."""
CANNOT_START = 3
"""Exit status of a worker that could not begin to serve."""
_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SETTLED_SECONDS = 60.0
_TICK_SECONDS = 0.5
_fork = multiprocessing.get_context("fork")


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """As many listening sockets on one address. Whether the address is free is asked before (`ports.check_free`)."""
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return [_listener(family, address, count > 1) for _ in range(count)]


def _listener(family: int, address: Any, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener


@dataclass
class _Post:
    """One worker's place."""

    listener: socket.socket
    """Closed while nobody is about to serve on it: who comes then is refused, or goes to another worker."""
    address: Any
    process: BaseProcess | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = 0


class Workers:
    """Keeps one worker running for each listener; from the main thread, as Linux ties children to it."""

    def __init__(self, listeners: list[socket.socket], work: Work, grace: float) -> None:
        """`grace` is in seconds, from SIGTERM to SIGKILL."""
        self._posts = [_Post(listener, listener.getsockname()) for listener in listeners]
        self._work, self._grace = work, grace
        self._signals = 0
        self._woken, self._waker = os.pipe()

    def run(self) -> bool:
        """Until a signal; False when a worker could not begin to serve before any of its place had."""
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            return self._watch()
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(self._waker)

    def _watch(self) -> bool:
        while not self._signals:
            now = time.monotonic()
            for post in self._posts:
                if post.process is not None and post.process.exitcode is not None:
                    status = post.process.exitcode
                    if status == CANNOT_START and not post.failures and now < post.started + _SETTLED_SECONDS:
                        return False  # it has told why
                    self._ended(post, status, now)
                if post.process is None and now >= post.due:
                    self._start(post, now)
            ends = [post.process.sentinel for post in self._posts if post.process]
            wait([*ends, self._woken], _TICK_SECONDS)
        return True

    def _start(self, post: _Post, now: float) -> None:
        if post.listener.fileno() < 0:
            try:
                post.listener = _listener(post.listener.family, post.address, len(self._posts) > 1)
            except OSError as error:
                _log.error("%s cannot be listened on: %s", post.address, error.strerror)
                self._put_off(post, now)
                return
        others = [other.listener for other in self._posts if other is not post]
        post.process = _fork.Process(target=partial(_begin, os.getpid(), self._work, post.listener, others))
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # or one that comes now would be taken for ours
        try:
            post.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        post.started = now

    def _ended(self, post: _Post, status: int, now: float) -> None:
        if now - post.started > _SETTLED_SECONDS:
            post.failures = 0
        post.process = None
        pause = self._put_off(post, now)
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        _log.error("a worker %s; another takes its place%s", ended, f" in {pause:.0f} s" if pause else "")

    def _put_off(self, post: _Post, now: float) -> float:
        """Seconds until the next start; with any, nobody is to wait at the post's socket for so long."""
        pause = wait_before(post.failures) if post.failures else 0.0
        post.failures += 1
        post.due = now + pause
        if pause:
            post.listener.close()
        return pause

    def _stop(self) -> None:
        """SIGTERM to all, then SIGKILL to those that take longer than the grace, or at a second signal."""
        running = [post.process for post in self._posts if post.process is not None]
        for post in self._posts:
            post.listener.close()  # who comes now is refused, and asks somebody else
        for process in running:
            process.terminate()
        asked, deadline = self._signals, time.monotonic() + self._grace
        while (left := [process for process in running if process.is_alive()]) and self._signals <= max(
            asked, 1
        ):
            if time.monotonic() > deadline:
                break
            wait([process.sentinel for process in left], _TICK_SECONDS)
        for process in left:
            _log.error("a worker did not end in time and is killed")
            process.kill()
            process.join()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        os.write(self._waker, b"!")  # a wait goes on after a signal was handled


def _begin(parent: int, work: Work, listener: socket.socket, others: list[socket.socket]) -> None:
    """In the worker: a signal ends it as any process until it says otherwise, its parent's death too."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    tie_to(parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    for other in others:
        other.close()
    work(listener)
