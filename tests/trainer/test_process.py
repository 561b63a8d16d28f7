"""A child process tells its parent everything, and never outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from feedback import errors
from tests.server.test_workers import gone
from tests.trainer import parent_of_a_child
from trainer.process import ChildDiedError, default_threads, run_child

ROOT = Path(__file__).parents[2]
Event = dict[str, Any] | None


@pytest.fixture(autouse=True)
def errands_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def send(
    folder: Path,
    errand: str,
    on_event: Callable[[Event], None] = lambda event: None,
    timeout_seconds: float = 60,
    devices: str = "",
    memory: int = 0,
    **spec: Any,
) -> dict[str, Any]:
    return run_child(
        "tests.trainer.errands",
        {"errand": errand, **spec},
        folder,
        threads=3,
        timeout_seconds=timeout_seconds,
        on_event=on_event,
        devices=(devices,),
        memory=memory,
    )


def test_events_come_in_order_and_what_libraries_print_goes_to_the_log(tmp_path: Path) -> None:
    events: list[Event] = []
    result = send(tmp_path, "count", events.append)
    told = [event for event in events if event is not None]
    assert [event.get("number") for event in told] == [0, 1, 2, None]
    assert told[-1] == {"event": "done", "result": result}
    log = (tmp_path / "errands.log").read_text()
    assert log.count("a library greets its users") == 3 and "forged" in log


def test_a_child_yields_the_cores_to_serving(tmp_path: Path) -> None:
    assert send(tmp_path, "count") == {"threads": "3", "wait": "PASSIVE", "nice": min(os.nice(0) + 10, 19)}
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory so")


@linux
def test_a_child_is_bounded_in_memory_sees_its_devices_and_is_the_first_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert send(tmp_path, "tell_its_place", devices="1,0", memory=600 << 20) == {
        "devices": "1,0",
        "order": "PCI_BUS_ID",
        "memory": 600 << 20,
        "first_to_go": "500",
    }
    assert send(tmp_path, "tell_its_place")["devices"] == "5"
    assert send(tmp_path, "tell_its_place", devices="cpu")["devices"] == ""


@linux
def test_a_child_that_would_take_more_memory_than_it_may_says_so_and_the_machine_keeps_it(
    tmp_path: Path,
) -> None:
    assert send(tmp_path, "take_memory", bytes=64 << 20, memory=600 << 20) == {"taken": 64 << 20}
    with pytest.raises(
        errors.StarloopError, match=r"no memory left of the 0\.63 GB .*\[training\] memory_limit"
    ):
        send(tmp_path, "take_memory", bytes=800 << 20, memory=600 << 20)


def test_a_gpu_that_another_process_filled_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        errors.StarloopError, match=r"no room for it \(CUDA out of memory.*GiB\.\).*nvidia-smi who holds"
    ):
        send(tmp_path, "find_the_gpu_full")


def test_the_working_directory_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) not in send(tmp_path, "show_path")["path"]


def test_a_silent_child_still_gives_its_parent_a_turn_each_second(tmp_path: Path) -> None:
    turns: list[float] = []

    def on_event(event: Event) -> None:
        turns.append(time.monotonic())
        if len(turns) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(tmp_path, "wait", on_event)
    assert max(later - earlier for earlier, later in pairwise(turns)) < 10  # of the 120 s of silence


@pytest.mark.parametrize(
    "kind", ["DataRefusedError", "NotFoundError", "UnsoundAdapterError", "StorageError", "BadInputError"]
)
def test_what_a_child_refuses_is_raised_in_the_parent_in_its_own_words(tmp_path: Path, kind: str) -> None:
    with pytest.raises(getattr(errors, kind)) as raised:
        send(tmp_path, "refuse", kind=kind)
    assert type(raised.value).__name__ == kind
    assert str(raised.value) == "this cannot be, in words"


def test_a_defect_in_a_child_names_itself_and_its_log_has_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(errors.StarloopError, match=r"KeyError: 'there' \(log: .*errands\.log\)") as raised:
        send(tmp_path, "crash")
    assert type(raised.value) is errors.StarloopError
    assert "in crash" in (tmp_path / "errands.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here that is always full")
@pytest.mark.parametrize(("errand", "words"), [("miss_a_file", "/nowhere/at/all"), ("crash", "")])
def test_what_went_wrong_is_told_though_the_logs_disk_is_full(
    tmp_path: Path, errand: str, words: str
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"errand": errand}))
    command = [sys.executable, "-P", "-m", "trainer.child", "tests.trainer.errands", str(spec)]
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=full) as child,
    ):
        assert child.stdout is not None
        told = json.loads(child.stdout.read().splitlines()[-1])
    assert told["event"] == "failed" and words in told["message"]


def test_a_file_that_a_child_cannot_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError, match="/nowhere/at/all"):
        send(tmp_path, "miss_a_file")


@pytest.mark.parametrize(
    ("errand", "spec", "words"),
    [
        (
            "die",
            {"signal": signal.SIGKILL},
            "killed .signal 9., most often because the machine ran out of memory",
        ),
        ("die", {"signal": signal.SIGSEGV}, "signal 11"),
        ("exit_at_once", {"status": 7}, "exit status 7"),
        ("exit_at_once", {"status": 0}, "exit status 0"),
        ("die_while_writing", {}, "killed .signal 9."),
    ],
)
def test_a_child_that_ends_without_a_word_is_no_success(
    tmp_path: Path, errand: str, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(
        errors.StarloopError, match=f"ended without a result: .*{words}.*errands.log"
    ) as raised:
        send(tmp_path, errand, **spec)
    assert type(raised.value) is ChildDiedError


def test_a_child_out_of_time_is_ended(tmp_path: Path) -> None:
    children: set[int] = set()
    others = {one.pid for one in psutil.Process().children()}

    def look(_: Event) -> None:
        """At each turn: on a busy machine it may be stopped before it has said a word."""
        children.update({one.pid for one in psutil.Process().children()} - others)

    with pytest.raises(errors.StarloopError, match="did not end within 2 s and was stopped"):
        send(tmp_path, "wait", look, timeout_seconds=2)
    assert children and all(map(gone, children))


def test_whatever_the_listener_raises_ends_the_child_and_goes_on(tmp_path: Path) -> None:
    class CancelledError(Exception):
        pass

    pids: list[int] = []

    def cancel(event: Event) -> None:
        if event is not None:
            pids.append(event["pid"])
            raise CancelledError

    with pytest.raises(CancelledError):
        send(tmp_path, "wait", cancel)
    assert gone(pids[0])


@pytest.mark.parametrize("errand", ["wait", "work_for_long_without_a_pause"])
def test_a_child_dies_with_its_killed_parent(tmp_path: Path, errand: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, parent_of_a_child.__file__, str(tmp_path), errand],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert gone(child)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(errors.StorageError, match="a child process could not be started there"):
        send(tmp_path / "taken", "count")
