"""A supervised child: noticed when ready, started again when gone, ended with all that it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from feedback.errors import UnavailableError
from server.processes import child as child_module
from server.processes.child import Child, Launch, Terms, wait_before
from server.processes.claim import prepare
from server.processes.family import Identity, alive, await_end, end, family, identify, myself
from server.processes.probe import answers
from server.processes.record import ProcessRecord, end_left_over, read_records, write_record
from tests.server.served import free_port

FAKE = Path(__file__).with_name("fake_engine.py")


@pytest.fixture
def port() -> int:
    return free_port()


class Stage:
    """A data directory and the children started in it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = prepare(directory), port
        self.worker_file = directory / "worker.pid"
        self.said: list[str] = []
        self.child: Child
        self.worker: Identity

    def make(
        self,
        *options: str,
        start: float = 20,
        grace: float = 2,
        unhealthy: float = 60,
        essential: bool = True,
    ) -> Child:
        argv = [sys.executable, str(FAKE), "--port", str(self.port), "--worker-pid", str(self.worker_file)]
        self.child = Child(
            "engine-fake",
            Launch([*argv, *options], dict(os.environ), self.directory),
            Terms(start, grace, remnants=1, unhealthy=unhealthy, essential=essential),
            self.directory,
            myself(),
            self.said.append,
            partial(answers, "127.0.0.1", self.port, "/health"),
            self.port,
        )
        return self.child

    def run(self, *options: str, **terms: float) -> Child:
        """A child that is ready and whose worker is on record."""
        child = self.make(*options, **terms)
        child.start(time.monotonic())
        self.until(lambda: child.state == "ready")
        self.worker = self.identity(int(self.worker_file.read_text()))
        self.until(lambda: self.worker in self.record().members)
        return child

    def until(self, reached: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, self.said
            self.child.tick(time.monotonic())
            time.sleep(0.05)

    def record(self) -> ProcessRecord:
        return next(record for _, record in read_records(self.directory / "run"))

    def front(self) -> Identity:
        assert self.child.pid is not None
        return self.identity(self.child.pid)

    @staticmethod
    def identity(pid: int) -> Identity:
        found = identify(pid)
        assert found is not None
        return found


@pytest.fixture
def stage(tmp_path: Path, port: int) -> Iterator[Stage]:
    made = Stage(tmp_path, port)
    yield made
    if hasattr(made, "child"):
        made.child.stop(lambda: True)
    if made.worker_file.exists():
        left = identify(int(made.worker_file.read_text()))
        end([left] if left else [], 0)


def test_a_child_is_ready_once_it_answers_and_says_how_long_that_took(stage: Stage) -> None:
    stage.run()
    assert len(stage.said) == 1
    assert re.fullmatch(r"engine-fake: ready \(\d+ s\)", stage.said[0])


def test_stopping_ends_the_front_and_its_worker_and_forgets_them(stage: Stage) -> None:
    child = stage.run()
    front = stage.front()
    assert child.stop() == []
    assert not alive(front) and not alive(stage.worker)
    assert list(read_records(stage.directory / "run")) == []


def test_a_child_that_ignores_sigterm_is_killed_with_its_worker(stage: Stage) -> None:
    child = stage.run("--stubborn", grace=0.3)
    front = stage.front()
    assert child.stop() == []
    assert not alive(front) and not alive(stage.worker)


def test_a_worker_in_a_session_of_its_own_is_ended_too(stage: Stage) -> None:
    child = stage.run("--worker-session")
    child.stop()
    assert not alive(stage.worker)


def test_a_killed_front_is_started_again_after_its_worker_was_ended(stage: Stage) -> None:
    child = stage.run()
    worker = stage.worker
    stage.worker_file.unlink()
    os.kill(stage.front().pid, signal.SIGKILL)
    stage.until(lambda: child.state == "waiting")
    assert not alive(worker)
    assert any("was ended by signal 9; starting again in 1 s" in line for line in stage.said)
    stage.until(lambda: child.state == "ready")
    assert child.pid == stage.record().leader.pid


def test_waits_between_starts_double_up_to_a_minute() -> None:
    assert [wait_before(failures) for failures in (1, 2, 3, 7, 50)] == [1, 2, 4, 60, 60]


def test_a_command_line_that_is_wrong_is_not_tried_again_and_its_last_words_are_shown(stage: Stage) -> None:
    child = stage.make("--exit", "2")
    child.start(time.monotonic())
    stage.until(lambda: child.state == "failed")
    assert "  cannot go on: the reason stands here" in stage.said
    assert stage.said[-1] == f"engine-fake: ended with status 2; see {child.log}"


def test_a_child_that_never_was_ready_is_given_up_after_three_starts(stage: Stage) -> None:
    child = stage.make("--exit", "1")
    child.start(time.monotonic())
    stage.until(lambda: child.state == "failed")
    assert sum("ended with status 1" in line for line in stage.said) == 3


def test_a_child_that_others_can_do_without_is_never_given_up(stage: Stage) -> None:
    child = stage.make("--exit", "2", essential=False)
    child.start(time.monotonic())
    stage.until(lambda: sum("ended with status 2; starting again" in line for line in stage.said) == 3)
    assert child.state == "waiting"


def test_a_child_that_is_not_ready_in_time_is_ended_and_started_again(stage: Stage) -> None:
    (stage.directory / "sick").touch()
    child = stage.make(start=0.5)
    child.start(time.monotonic())
    front = stage.front()
    stage.until(lambda: child.state == "waiting")
    assert not alive(front)
    assert "was not ready after 0 s" in stage.said[-1]


def test_a_child_that_stopped_answering_is_started_again(stage: Stage) -> None:
    child = stage.run(unhealthy=60)
    (stage.directory / "sick").touch()
    now = time.monotonic()
    for seconds in range(0, 80, 6):
        if child.state == "ready":
            child.tick(now + seconds)
    assert child.state == "waiting"
    assert "has not answered for" in stage.said[-1]
    assert not alive(stage.worker)


def test_a_program_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    launch = Launch([str(tmp_path / "nothing")], {}, tmp_path)
    child = Child("engine-none", launch, Terms(1, 1), prepare(tmp_path), myself(), print)
    with pytest.raises(UnavailableError, match="engine-none: cannot be started"):
        child.start(0.0)


def test_a_start_that_fails_is_tried_again_as_one_that_ended(tmp_path: Path) -> None:
    said: list[str] = []
    launch, terms = Launch([str(tmp_path / "nothing")], {}, tmp_path), Terms(1, 1, essential=False)
    child = Child("engine-none", launch, terms, prepare(tmp_path), myself(), said.append)
    assert not child.begin(0.0) and child.state == "waiting"
    child.tick(0.9)
    assert len(said) == 1
    child.tick(1.0)
    assert [line.rpartition("; ")[2].partition(" (")[0] for line in said] == [
        "starting again in 1 s",
        "starting again in 2 s",
    ]
    assert said[0].count("engine-none") == 2  # whose it is, and its log


def test_what_could_not_be_ended_is_ended_when_that_is_tried_again_and_nothing_starts_beside_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = stage.run("--stubborn", grace=0.1)
    front, process = stage.front(), child._process
    assert process is not None
    with monkeypatch.context() as stuck:
        stuck.setattr(child_module, "end", lambda members, grace: list(members))
        assert {front, stage.worker} <= set(child.stop())
        with pytest.raises(UnavailableError, match=rf"process .*{stage.worker.pid}.* could not be ended"):
            child.start(time.monotonic())
        assert stage.record().leader == front
    assert child.stop() == [] and process.wait(20) == -signal.SIGKILL
    assert not alive(front) and not alive(stage.worker)
    assert list(read_records(stage.directory / "run")) == []


def test_without_a_question_to_ask_a_child_is_ready_after_five_seconds_of_life(tmp_path: Path) -> None:
    launch = Launch([sys.executable, str(FAKE)], dict(os.environ), tmp_path)
    child = Child("loop", launch, Terms(60, 1), prepare(tmp_path), myself(), lambda line: None)
    child.start(100.0)
    try:
        child.tick(104.9)
        assert child.state == "starting"
        child.tick(105.0)
        assert child.state == "ready"
    finally:
        child.stop()


def test_the_next_start_ends_what_a_dead_supervisor_left_and_only_that(stage: Stage) -> None:
    """The front is gone as well, so that the worker is known from the record alone."""
    stage.run()
    record, worker = stage.record(), stage.worker
    run = stage.directory / "run"
    assert end_left_over(run) == []  # its supervisor, this process, lives
    assert alive(worker)
    os.kill(record.leader.pid, signal.SIGKILL)
    await_end([record.leader], 20)
    gone = Identity(record.owner.pid, record.owner.created - 100)
    write_record(run, ProcessRecord(record.name, record.leader, record.pgid, gone, None, record.members))
    assert end_left_over(run) == ["engine-fake"]
    assert not alive(worker)
    assert list(read_records(run)) == []


def test_a_stranger_with_a_number_from_the_record_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, str(FAKE)], start_new_session=True)
    try:
        now = identify(stranger.pid)
        assert now is not None
        before = Identity(stranger.pid, now.created - 1000)
        run = prepare(tmp_path) / "run"
        write_record(run, ProcessRecord("engine-old", before, stranger.pid, before, None, [before]))
        assert end_left_over(run) == []
        assert alive(now)
        assert list(read_records(run)) == []
    finally:
        stranger.kill()
        stranger.wait()


def test_a_damaged_record_is_dropped(tmp_path: Path) -> None:
    run = prepare(tmp_path) / "run"
    (run / "engine-x.1.json").write_bytes(b'{"name": "eng')
    assert end_left_over(run) == []
    assert list(run.glob("*.json")) == []


def test_a_family_holds_descendants_and_session_members_but_nobody_else() -> None:
    front = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        leader = identify(front.pid)
        assert leader is not None
        deadline = time.monotonic() + 30
        while len(family(leader)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        members = family(leader)
        assert len(members) == 2 and leader in members
        assert os.getpid() not in {member.pid for member in members}
    finally:
        front.communicate(b"\n", timeout=30)
    assert family(leader, members) == []
