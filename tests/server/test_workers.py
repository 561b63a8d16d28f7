"""Workers that die, that cannot begin, that do not end; and a main process that is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
_MAIN = """\
import os, signal, sys, time
{first}
from server.processes.workers import CANNOT_START, Workers, listen

def work(listener):
    {before}
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    listener.settimeout(0.1)
    while not stop:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            connection.sendall(str(os.getpid()).encode())
    listener.close()
    {after}

listeners = listen("127.0.0.1", 0, 1)
print(listeners[0].getsockname()[1], flush=True)
sys.exit(0 if Workers(listeners, work, {grace}).run() else 7)
"""


class Running:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def pid(self) -> int:
        """Of the worker that answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            return int(connection.recv(100))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@contextmanager
def running(
    before: str = "pass", after: str = "pass", grace: float = 10.0, first: str = "pass"
) -> Iterator[Running]:
    program = _MAIN.format(first=first, before=before, after=after, grace=grace)
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Running(process, int(process.stdout.readline()))
        finally:
            process.kill()


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether the process ends within that time."""
    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True


def test_a_worker_that_was_killed_is_followed_by_another_and_who_waits_is_answered() -> None:
    with running() as gateway:
        first = gateway.pid()
        os.kill(first, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as waiting:
            os.kill(first, signal.SIGKILL)
            assert int(waiting.recv(100)) != first


def test_sigterm_lets_workers_end_by_themselves() -> None:
    with running(after="time.sleep(0.5)") as gateway:
        worker = gateway.pid()
        gateway.process.terminate()
        assert gateway.process.wait(30) == 0
        assert gone(worker, 0.1)


def test_a_worker_that_has_hardly_begun_hears_sigterm_too() -> None:
    slow = "os.register_at_fork(after_in_child=lambda: time.sleep(0.5))"
    with running(first=slow, grace=20.0) as gateway:
        while not gateway.children():
            time.sleep(0.01)
        gateway.process.terminate()
        assert gateway.process.wait(30) == 0


def test_a_worker_that_does_not_end_in_its_grace_is_killed() -> None:
    with running(after="time.sleep(60)", grace=0.5) as gateway:
        worker = gateway.pid()
        gateway.process.terminate()
        assert gateway.process.wait(30) == 0
        assert gone(worker, 0.1)


def test_nobody_is_taken_who_would_not_be_answered_once_it_ends(tmp_path: Path) -> None:
    ending = tmp_path / "ending"
    with running(after=f"open({str(ending)!r}, 'w').close(); time.sleep(5)") as gateway:
        gateway.pid()
        gateway.process.terminate()
        deadline = time.monotonic() + 30
        while not ending.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(ConnectionError):
            gateway.pid()


def test_a_worker_that_cannot_begin_ends_all() -> None:
    with running(before="sys.exit(CANNOT_START)") as gateway:
        assert gateway.process.wait(30) == 7


def test_a_worker_that_keeps_dying_is_started_less_and_less_often(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with running(before=f"open({str(starts)!r}, 'a').write('x'); os._exit(1)"):
        time.sleep(2.5)
    assert 2 <= len(starts.read_text()) <= 4


def test_nobody_waits_at_a_worker_that_is_not_to_be_started_soon(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    before = f"open({str(starts)!r}, 'a').write('x'); os._exit(1) if len(open({str(starts)!r}).read()) < 4 else None"
    with running(before=before) as gateway:
        refused = 0
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                gateway.pid()
                break
            except (ConnectionError, ValueError):  # refused; or reset, by one that died
                refused += 1
                time.sleep(0.05)
        assert refused > 5 and len(starts.read_text()) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
@pytest.mark.parametrize("before", ["pass", "time.sleep(60)"], ids=["serving", "starting"])
def test_workers_end_with_a_main_process_that_was_killed(before: str) -> None:
    with running(before=before) as gateway:
        deadline = time.monotonic() + 30
        while not (children := gateway.children()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        gateway.process.kill()
        assert gone(children[0].pid)
