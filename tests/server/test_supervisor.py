"""The supervisor as a process: signals, kill -9 of it or of what it runs, and what the next start finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from feedback.asleep import found_asleep, wanted_asleep
from server.processes.family import Identity, alive, end, identify
from server.processes.probe import answers
from tests.server.served import free_port

SCRIPT = Path(__file__).with_name("fake_up.py")
ROOT = Path(__file__).parents[2]


class Run:
    """Supervisors on one data directory, and what they said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory.with_name("said.txt")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.seen: set[Identity] = set()
        self.port = free_port()

    def start(self, *options: str, program: Path | None = None, grace: int = 2) -> subprocess.Popen[bytes]:
        engine = {"STARLOOP_TEST_ENGINE": str(program)} if program else {}
        engine["STARLOOP_TEST_GRACE"] = str(grace)
        with self.out.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(self.directory), str(self.port), *options],
                stdout=out,
                stderr=out,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | engine,
            )
        self.processes.append(process)
        return process

    def started(self, *options: str, grace: int = 2) -> tuple[subprocess.Popen[bytes], Identity, Identity]:
        """A supervisor that is up, with its engine's front and worker."""
        worker_file = self.directory.with_name("worker.pid")
        worker_file.unlink(missing_ok=True)
        self.out.unlink(missing_ok=True)
        process = self.start("--worker-pid", str(worker_file), *options, grace=grace)
        self.until(lambda: "all ready" in self.said())
        worker = self._identity(int(worker_file.read_text()))
        front = self._identity(psutil.Process(worker.pid).ppid())
        name = f"engine-fake.{front.pid}.json"
        record = self.directory / "run" / name
        self.until(lambda: f'"pid":{worker.pid},' in record.read_text())
        return process, front, worker

    def until(self, reached: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return self.out.read_text() if self.out.exists() else ""

    def _identity(self, pid: int) -> Identity:
        found = identify(pid)
        assert found is not None
        self.seen.add(found)
        return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "data")
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
    end([one for one in made.seen if alive(one)], 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_everything_and_the_status_is_0(run: Run, number: signal.Signals) -> None:
    supervisor, front, worker = run.started()
    supervisor.send_signal(number)
    assert supervisor.wait(60) == 0
    assert not alive(front) and not alive(worker)
    assert list((run.directory / "run").glob("*.json")) == []
    assert "stopping engine-fake" in run.said()


def test_a_second_signal_does_not_wait_for_the_grace(run: Run) -> None:
    supervisor, front, worker = run.started("--stubborn", grace=600)
    supervisor.send_signal(signal.SIGTERM)
    run.until(lambda: "stopping" in run.said())
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0
    assert not alive(front) and not alive(worker)


def test_a_front_killed_under_it_is_replaced_and_no_worker_or_zombie_stays(run: Run) -> None:
    supervisor, front, worker = run.started()
    os.kill(front.pid, signal.SIGKILL)
    run.until(lambda: run.said().count("engine-fake: ready") == 2)
    assert not alive(worker)
    run.until(lambda: len(psutil.Process(supervisor.pid).children()) == 1)
    supervisor.terminate()
    assert supervisor.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells children of their parent's death")
def test_kill_9_of_the_supervisor_ends_its_children_by_themselves(run: Run) -> None:
    supervisor, front, _worker = run.started()
    supervisor.kill()
    supervisor.wait()
    run.until(lambda: not alive(front))


def test_the_start_after_a_kill_9_ends_what_was_left_and_then_serves(run: Run) -> None:
    supervisor, front, worker = run.started("--stubborn")
    supervisor.kill()
    supervisor.wait()
    assert alive(worker)
    again, new_front, _ = run.started()
    assert "engine-fake: ended; a former run had left it behind" in run.said()
    assert not alive(front) and not alive(worker) and alive(new_front)
    assert answers("127.0.0.1", run.port, "/health")
    again.terminate()
    assert again.wait(60) == 0


def test_a_second_supervisor_on_one_data_directory_is_refused_and_told_the_first_ones_number(
    run: Run,
) -> None:
    first, front, _ = run.started()
    second = run.start()
    assert second.wait(60) == 1
    assert f"already runs on this data directory (process {first.pid})" in run.said()
    assert alive(front)
    first.terminate()
    assert first.wait(60) == 0


def test_an_engine_that_can_never_start_ends_the_supervisor_with_1_and_its_reason(run: Run) -> None:
    supervisor = run.start("--exit", "2")
    assert supervisor.wait(60) == 1
    assert "cannot go on: the reason stands here" in run.said()
    assert "Traceback" not in run.said()


def test_an_engine_whose_program_cannot_be_executed_is_tried_again_and_ends_nothing_else(run: Run) -> None:
    program = run.directory.with_name("engine.sh")
    supervisor = run.start(program=program)
    run.until(lambda: "engine-fake: cannot be started" in run.said())
    assert "starting again in 1 s" in run.said() and supervisor.poll() is None
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {SCRIPT.with_name("fake_engine.py")} "$@"\n')
    program.chmod(0o755)
    run.until(lambda: "all ready" in run.said())
    supervisor.terminate()
    assert supervisor.wait(60) == 0


def test_an_engine_whose_program_is_never_there_ends_the_supervisor_in_words_after_three_tries(
    run: Run,
) -> None:
    supervisor = run.start(program=run.directory.with_name("nothing"))
    assert supervisor.wait(60) == 1
    assert run.said().count("engine-fake: cannot be started: [Errno 2]") == 3
    assert "Traceback" not in run.said()


SLEEPER = """
import sys, time
from pathlib import Path
from feedback.asleep import wanted_asleep
with wanted_asleep(Path(sys.argv[1])).held("while a test trains"):
    time.sleep(120)
"""


def test_engines_sleep_while_the_loop_asks_for_it_and_wake_when_it_was_killed_also_if_they_died_between(
    run: Run,
) -> None:
    _, front, worker = run.started()
    asleep = found_asleep(run.directory)
    busy = run.directory / "busy"
    busy.touch()
    loop = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(run.directory)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        run.until(lambda: "engines: going to sleep while a test trains" in run.said())
        time.sleep(4)  # longer than it takes where nothing is under way
        assert alive(front)
        assert asleep.told() is None
        busy.unlink()
        run.until(lambda: asleep.told() is not None)
        assert not alive(front)
        assert not alive(worker)
        time.sleep(1)  # nor is it started again
        assert run.said().count("engine-fake: starting") == 1
    finally:
        loop.kill()
        loop.wait()
    run.until(lambda: run.said().count("engine-fake: ready") == 2)
    assert asleep.told() is None
    assert answers("127.0.0.1", run.port, "/health")


def test_engines_that_start_while_a_training_wants_them_asleep_stay_down_until_it_is_over(run: Run) -> None:
    run.directory.mkdir(parents=True, exist_ok=True)
    with wanted_asleep(run.directory).held("while a test trains"):
        run.start()
        run.until(lambda: found_asleep(run.directory).told() is not None)
        assert "starting" not in run.said()
    run.until(lambda: "all ready" in run.said())
