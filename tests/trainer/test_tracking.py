"""Steps shown in TensorBoard and MLflow, through their real libraries; what is away costs a training nothing but a notice."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from feedback.errors import BadInputError
from feedback.settings import Training
from trainer import tracking
from trainer.tracking import Tracking, require_libraries, tracking_of
from trainer.training import Progress

STEPS = [
    Progress(
        step=step, steps=3, epoch=1, epochs=1, loss=2.0 - step / 2, validation_loss=1.5 if step == 3 else None
    )
    for step in range(4)
]
PARAMETERS = {"rank": 16, "learning_rate": 0.003, "method": "sft", "gradient_checkpointing": False}


def follow(settings: Training, folder: Path, version: str | None) -> list[Progress]:
    """A training of three steps; what each step told."""
    with tracking_of(settings, folder, "assistant", "run-1", PARAMETERS) as passing:
        told = [passing(step) for step in STEPS]
        passing.version = version
    return told


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a TensorBoard folder as its own reader finds it: step and value by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore")  # of its libraries
def test_tensorboard_reads_every_step_under_the_versions_name(tmp_path: Path) -> None:
    told = follow(Training(log_to=["tensorboard"]), tmp_path, "assistant@1.2")
    assert told == STEPS, "nothing was noticed"
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["assistant@1.2"]
    found = read_events(tmp_path / "tensorboard" / "assistant@1.2")
    assert found["loss/train"] == [(0, 2.0), (1, 1.5), (2, 1.0), (3, 0.5)]
    assert found["loss/validation"] == [(3, 1.5)]
    assert "gradient_norm" not in found
    (file,) = (tmp_path / "tensorboard" / "assistant@1.2").iterdir()
    assert b"learning_rate" in file.read_bytes(), "its hyperparameters"


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_failed_keeps_its_runs_name_and_goes_on_there(tmp_path: Path) -> None:
    follow(Training(log_to=["tensorboard"]), tmp_path, None)
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["assistant-run-1"]
    follow(Training(log_to=["tensorboard"]), tmp_path, "assistant@1.0")
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert (folder.name, len(list(folder.iterdir()))) == ("assistant@1.0", 2)


class Server(BaseHTTPRequestHandler):
    """The part of MLflow's REST API that a client of runs needs."""

    runs: ClassVar[list[dict[str, Any]]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path.endswith("/runs/get"):
            self._answer({"run": self._run(asked["run_id"][0])["as"]})
            return
        assert (path.rpartition("/")[2], asked["experiment_name"]) == ("get-by-name", ["assistant"])
        self._answer({"experiment": {"experiment_id": "7", "name": "assistant", "lifecycle_stage": "active"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        what = self.path.partition("/runs/")[2]
        if what == "search":
            wanted = body["filter"].rpartition("'")[0].rpartition("'")[2]
            self._answer({"runs": [run["as"] for run in self.runs if wanted == run["tag"]]})
        elif what == "create":
            info = {"run_id": f"r{len(self.runs)}", "run_name": body["run_name"], "experiment_id": "7"}
            info |= {"status": "RUNNING", "start_time": 1, "lifecycle_stage": "active"}
            tag = next(one["value"] for one in body["tags"] if one["key"] == "starloop.run")
            self.runs.append({"as": {"info": info, "data": {}}, "tag": tag, "metrics": [], "params": {}})
            self._answer({"run": self.runs[-1]["as"]})
        else:
            run = self._run(body["run_id"])
            run["metrics"] += body.get("metrics", [])
            run["params"] |= {one["key"]: one["value"] for one in body.get("params", [])}
            for name in ("run_name", "status"):
                if what == "update" and body.get(name):
                    run["as"]["info"][name] = body[name]
            self._answer({"run_info": run["as"]["info"]} if what == "update" else {})

    def _run(self, number: str) -> dict[str, Any]:
        return next(run for run in self.runs if run["as"]["info"]["run_id"] == number)

    def _answer(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def mlflow() -> Iterator[str]:
    Server.runs = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_steps_and_hyperparameters_in_one_run_called_like_the_version(
    tmp_path: Path, mlflow: str
) -> None:
    settings = Training(log_to=["mlflow"], mlflow_url=mlflow)
    follow(settings, tmp_path, None)
    assert [run["as"]["info"]["status"] for run in Server.runs] == ["FAILED"]
    follow(settings, tmp_path, "assistant@1.2")
    (run,) = Server.runs
    assert (run["as"]["info"]["run_name"], run["as"]["info"]["status"]) == ("assistant@1.2", "FINISHED")
    assert run["params"] == {name: str(value) for name, value in PARAMETERS.items()}
    losses = [(one["step"], one["value"]) for one in run["metrics"] if one["key"] == "loss/train"]
    assert losses == [(0, 2.0), (1, 1.5), (2, 1.0), (3, 0.5)] * 2


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_is_away_is_a_notice_said_once_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_SECONDS", 0.01)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings = Training(log_to=["mlflow"], mlflow_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
    told: list[str] = []
    with tracking_of(settings, tmp_path, "assistant", "run-1", PARAMETERS) as passing:
        for number in range(100_000):
            begun = time.monotonic()
            told += passing(Progress(step=number + 1, steps=100_000)).noticed
            assert time.monotonic() - begun < 1.0
            if told:
                break
            time.sleep(0.01)
        told += passing(Progress(step=100_000, steps=100_000)).noticed
        assert passing.untold() == []
    assert len(told) == 1
    assert told[0].startswith("mlflow takes no steps (") and told[0].endswith("its record is whole")


def test_steps_that_could_not_be_passed_on_are_passed_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_SECONDS", 0.01)
    monkeypatch.setattr(tracking, "_AGAIN", 0.01)
    seen: list[int] = []
    ended: list[str | None] = []

    class Flaky:
        def write(self, steps: Any) -> None:
            if not fine.is_set():
                raise OSError("away")
            seen.extend(progress.step for _, progress in steps)

        def end(self, version: str | None) -> None:
            ended.append(version)

    fine = threading.Event()
    with Tracking({"somewhere": Flaky}) as passing:
        for step in STEPS:
            passing(step)
            passing(step)  # as at each heartbeat
        while not passing.untold():
            time.sleep(0.01)
        fine.set()
        passing.version = "assistant@1.0"
    assert (seen, ended) == ([0, 1, 2, 3], ["assistant@1.0"])


def test_what_cannot_work_is_said_before_a_training_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match=r"say where its tracking server is, \[training\] mlflow_url"):
        require_libraries(Training(log_to=["mlflow"]))
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"not installed: pip install 'starloop\[tensorboard\]'"):
        require_libraries(Training(log_to=["tensorboard"]))
    require_libraries(Training())
