"""The node's end of a training on Ray: it does what the order says, and nothing without one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from tests.trainer.test_process import ROOT
from trainer import job
from trainer.on_ray import Order
from trainer.process import run_child
from trainer.training import ORDER, alone_in

PLAIN: dict[str, Any] = {
    "job": "starloop-1",
    "address": "http://head:8265",
    "release": job.version("starloop"),
    "threads": 1,
    "gpus": 0,
    "memory": 0,
    "timeout_seconds": 60.0,
}


@pytest.fixture(autouse=True)
def errands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child does an errand instead of a training, and nothing is waited for long."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    send: Callable[..., Any] = lambda _, *given, **named: run_child("tests.trainer.errands", *given, **named)  # noqa: E731
    monkeypatch.setattr(job, "run_child", send)
    monkeypatch.setattr(job, "PATIENCE", 0.5)


def order(folder: Path, errand: str, changes: dict[str, Any] | None = None, **spec: Any) -> None:
    made = Order(**{**PLAIN, "spec": {"errand": errand, **spec}, **(changes or {})})
    (folder / ORDER).write_bytes(msgspec.json.encode(made))


def events(folder: Path) -> list[dict[str, Any]]:
    file = folder / "events-starloop-1.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_what_a_training_tells_stands_in_the_folder_and_its_end_names_the_adapters_bytes(
    tmp_path: Path,
) -> None:
    order(tmp_path, "count")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_bytes(b"x")
    assert job.run(tmp_path, "starloop-1") == 0
    *told, done = events(tmp_path)
    assert [event["number"] for event in told] == [0, 1, 2]
    assert (done["event"], done["result"]["threads"]) == ("done", "1")
    assert list(done["files"]) == ["weights"] and done["files"]["weights"].startswith("2d711642")


def test_a_node_that_does_not_have_the_folder_says_where_it_has_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.run(tmp_path / "elsewhere", "starloop-1") == 1
    said = printed(capsys)
    assert said["kind"] == "NotFoundError"
    assert "needs Starloop's data directory under the same path on every node" in said["message"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_node_with_another_release_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order(tmp_path, "count", {"release": "9.9.9"})
    assert job.run(tmp_path, "starloop-1") == 1
    said = printed(capsys)
    assert said["kind"] == "ConflictError" and "install the same release there" in said["message"]


def test_a_refusal_of_the_training_is_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order(tmp_path, "refuse", kind="UnsoundAdapterError")
    assert job.run(tmp_path, "starloop-1") == 1
    assert events(tmp_path) == [printed(capsys)]
    assert events(tmp_path)[0]["kind"] == "UnsoundAdapterError"


@pytest.mark.parametrize("what", ["gone", "another job's"])
def test_a_job_whose_order_is_not_its_own_any_more_ends_by_itself(tmp_path: Path, what: str) -> None:
    order(tmp_path, "wait")
    ends: list[int] = []
    thread = Thread(target=lambda: ends.append(job.run(tmp_path, "starloop-1")))
    thread.start()
    deadline = time.monotonic() + 30
    while not events(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    if what == "gone":
        (tmp_path / ORDER).unlink()
    else:
        order(tmp_path, "wait", {"job": "starloop-2"})
    thread.join(20)
    assert ends == [1] and [event["event"] for event in events(tmp_path)] == ["started", "left"]


def test_a_job_that_is_not_named_does_not_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order(tmp_path, "count", {"job": "starloop-2"})
    assert job.run(tmp_path, "starloop-1") == 1
    assert "names another job" in capsys.readouterr().out and events(tmp_path) == []


def test_two_jobs_never_train_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order(tmp_path, "count")
    with alone_in(tmp_path, "job.lock"):
        assert job.run(tmp_path, "starloop-1") == 1
    assert printed(capsys)["kind"] == "ConflictError"


def test_several_gpus_are_those_that_ray_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    take = partial(lambda *given, **named: seen.append(named["devices"]) or {"steps": 1})
    monkeypatch.setattr(job, "run_child", take)
    (tmp_path / "adapter").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    for gpus in (0, 1, 2):
        order(tmp_path, "count", {"gpus": gpus})
        assert job.run(tmp_path, "starloop-1") == 0
    assert seen == [["cpu"], [""], ["2", "5"]]
    order(tmp_path, "count", {"gpus": 3})
    assert job.run(tmp_path, "starloop-1") == 1
    assert "asked for 3 GPUs and Ray gave it '2,5'" in events(tmp_path)[-1]["message"]
