"""`starloop doctor`: says what is there, what it takes and what is missing, and changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from feedback.settings import Engine, Model, Schedule, Server, Settings, Storage, Teacher, Training
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion
from tests.server.served import free_port
from tests.trainer.fake_ray import fake_ray
from tests.trainer.tiny import row, write_dataset, write_rows
from trainer import doctor, placement
from trainer.commands.doctor import doctor as command
from trainer.doctor import examine
from trainer.machine import Gpu, Machine
from trainer.next_training import Finding

SMALL = Machine(cores=2, memory=1 << 30, free=1 << 30)


def _settings(directory: Path, **changes: Any) -> Settings:
    plain: dict[str, Any] = {"storage": Storage(directory=str(directory)), "server": Server(port=free_port())}
    return Settings(**(plain | changes))


def _told(settings: Settings) -> dict[str, Finding]:
    return {one.about: one for one in examine(settings)}


def test_a_fresh_machine_has_no_problem_and_nothing_is_made(tmp_path: Path) -> None:
    found = _told(_settings(tmp_path / "data"))
    assert {one.state for one in found.values()} <= {"ok", "note"}
    assert "begins" in found["database"].text
    assert "1,000 rows of 200 tokens" in found["training assistant"].text
    assert list(tmp_path.iterdir()) == []


def test_a_record_says_what_waits_and_who_gets_in(sqlite_database: Database, tmp_path: Path) -> None:
    found = _told(_settings(tmp_path, model=[Model(name="assistant", mode="auto")]))
    assert found["database"].text.startswith("sqlite, revision")
    assert "every scope is open to this machine" in found["keys"].text
    assert found["model assistant"].state == "warning" and "data golden draw" in found["model assistant"].text
    open_to_all = _settings(tmp_path)
    open_to_all = msgspec.structs.replace(
        open_to_all, server=msgspec.structs.replace(open_to_all.server, host="0.0.0.0")
    )
    assert "starloop keys create" in _told(open_to_all)["keys"].text


def test_tables_of_another_release_are_a_problem(sqlite_database: Database, tmp_path: Path) -> None:
    with sqlite_database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'old'"))
    found = _told(_settings(tmp_path))["database"]
    assert (found.state, "starloop db upgrade" in found.text) == ("problem", True)


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STARLOOP_TEACHER_KEY", raising=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    settings = _settings(
        tmp_path / "data",
        engine=[Engine(base=str(empty), urls=["http://127.0.0.1:9"], max_lora_rank=8)],
        model=[Model(name="assistant", base=str(empty), examples=str(tmp_path / "none.jsonl"))],
        training=Training(rank=16),
        teacher=Teacher(url="http://teacher/v1", model="large"),
        schedule=Schedule(cron=""),
    )
    problems = [one.text for one in examine(settings) if one.state == "problem"]
    for part in (
        "holds no config.json",
        "does not answer",
        "above its max_lora_rank",
        "export the key",
        "none.jsonl",
    ):
        assert any(part in one for one in problems), part


def test_a_model_that_does_not_fit_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_machine", lambda: Machine(cores=2, memory=1 << 20, free=1 << 20))
    found = [one.text for one in examine(_settings(tmp_path / "data")) if one.state == "problem"]
    assert any("weights take" in one for one in found)
    assert any(one.endswith("the cpu has 1 MB") for one in found)


def test_a_gpu_that_the_engine_fills_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA L4", 24 << 30, 1 << 10)
    monkeypatch.setattr(doctor, "find_machine", lambda: msgspec.structs.replace(SMALL, gpus=[gpu]))
    found = _told(_settings(tmp_path / "data"))
    assert "--gpu-memory-utilization" in found["training assistant"].text
    assert found["GPU"].text.startswith("NVIDIA L4")


@pytest.mark.parametrize(
    ("arguments", "devices", "state"),
    [
        ([], "", "warning"),
        ([], "0", "warning"),
        (["--gpu-memory-utilization", "0.6"], "", "ok"),
        (["--gpu_memory_utilization=0.6"], "", "ok"),
        ([], "1", "ok"),
    ],
)
def test_what_the_engine_will_take_of_a_gpu_counts_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], devices: str, state: str
) -> None:
    gpus = [Gpu("NVIDIA L4", 2 << 30, 2 << 30) for _ in range(2)]
    monkeypatch.setattr(doctor, "find_machine", lambda: msgspec.structs.replace(SMALL, gpus=gpus))
    engine = Engine(arguments=arguments)
    found = _told(_settings(tmp_path / "data", engine=[engine], training=Training(devices=devices, batch=64)))
    assert found["training assistant"].state == state, found["training assistant"].text
    if state == "warning":
        assert (
            "0.2 GB are left beside the engine with its key-value cache: lower"
            in found["training assistant"].text
        )


def test_a_place_for_steps_without_its_server_is_a_problem(tmp_path: Path) -> None:
    found = _told(_settings(tmp_path / "data", training=Training(log_to=["mlflow"])))["tracking"]
    assert found.state == "problem" and "mlflow_url" in found.text


def test_a_quantised_base_without_its_library_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    found = _told(_settings(tmp_path / "data", training=Training(quantisation="nf4")))["quantisation"]
    assert found.state == "problem" and "pip install 'starloop[bitsandbytes]'" in found.text


def test_a_gpu_that_is_not_there_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA L4", 24 << 30, 24 << 30)
    monkeypatch.setattr(doctor, "find_machine", lambda: msgspec.structs.replace(SMALL, gpus=[gpu]))
    settings = _settings(tmp_path / "data", training=Training(devices="1"))
    found = _told(settings)["training"]
    assert (found.state, "names '1', and the GPUs here are: 0 (NVIDIA L4)" in found.text) == ("problem", True)
    assert (
        _told(_settings(tmp_path / "data", training=Training(devices="0")))["training assistant"].state
        == "ok"
    )


def test_training_on_ray_is_told_with_whether_the_cluster_answers(tmp_path: Path) -> None:
    with fake_ray(tmp_path / "cluster") as ray:
        wanted = Training(ray=ray.url, devices="0,1", threads=4)  # GPUs of a node: this machine has none
        found = _told(_settings(tmp_path / "data", training=wanted))
        on_ray = found["training on Ray"]
        assert on_ray.state == "ok" and on_ray.text.startswith(f"Ray 2.60.0 answers at {ray.url}; a job asks")
        assert "4 CPUs and 2 GPUs" in on_ray.text and str(tmp_path / "data") in on_ray.text
        assert found["training assistant"].text.startswith("goes to Ray") and "training" not in found
        ray.away = True
        away = _told(_settings(tmp_path / "data", training=wanted))["training on Ray"]
    assert away.state == "problem" and "does not answer" in away.text


@contextmanager
def _served(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_is_free_a_gateways_or_somebody_elses(tmp_path: Path) -> None:
    with _served(200) as port:
        assert "a gateway answers" in _told(_settings(tmp_path, server=Server(port=port)))["port"].text
    with _served(404) as port:
        found = _told(_settings(tmp_path, server=Server(port=port)))["port"]
    assert (found.state, "set server.port" in found.text) == ("problem", True)


def test_an_engine_of_another_release_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "0.31.1")
    found = _told(_settings(tmp_path))["engine"]
    assert (found.state, "0.31.1" in found.text) == ("problem", True)


def test_the_command_ends_with_1_when_there_is_a_problem(tmp_path: Path) -> None:
    environment = {"STARLOOP_STORAGE__DIRECTORY": str(tmp_path / "data")}
    with _served(404) as port:
        taken = CliRunner(env=environment | {"STARLOOP_SERVER__PORT": str(port)}).invoke(command, ["--json"])
    document = json.loads(taken.stdout)
    assert (taken.exit_code, document["problems"]) == (1, 1)
    shown = CliRunner(env=environment | {"STARLOOP_SERVER__PORT": "9"}).invoke(command, [])
    assert shown.exit_code == 0 and "0 problems." in shown.stdout


def test_the_training_window_is_told_with_whether_it_is_open(tmp_path: Path) -> None:
    assert "training window" not in _told(_settings(tmp_path / "data"))
    all_day = _told(_settings(tmp_path / "data", training=Training(window="00:00-24:00")))["training window"]
    assert all_day.text == "trainings begin within 00:00-24:00 UTC; open until 00:00"
    now = datetime.now(UTC)
    later = [f"{(now + timedelta(hours=hours)).hour:02}:00" for hours in (2, 3)]
    closed = _told(_settings(tmp_path / "data", training=Training(window="-".join(later))))["training window"]
    assert f"closed, opens {now + timedelta(hours=2):%d %b} {later[0]}" in closed.text


def _with_dataset(database: Database, directory: Path, **files: list[dict[str, Any]]) -> None:
    """A frozen dataset version of the assistant, as the newest one."""
    data = write_dataset(directory / "datasets" / "data-1", files.pop("train"))
    for name, rows in files.items():
        write_rows(data / f"{name}.jsonl", rows)
    with database.session() as session:
        session.add(
            DatasetVersion(
                id="data-1", model="assistant", content_hash="h", created=0.0, note="", manifest={}
            )
        )
        session.commit()


def _rated(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": row(n)["messages"], "answer": "red", "good": n % 2 == 0, "group": f"r{n}"}
        for n in range(count)
    ]


def test_the_next_training_is_planned_by_the_method_that_the_evidence_chooses(
    sqlite_database: Database, tmp_path: Path
) -> None:
    priced: dict[str, Any] = {"teraflops": 0.1, "price_per_hour": 1.0, "hosted_prices": {"elsewhere": 3.0}}
    train = [row(n, new=False, source="base") for n in range(60)]
    _with_dataset(sqlite_database, tmp_path, train=train, rated=_rated(500))
    found = {
        wanted: _told(_settings(tmp_path, training=Training(method=wanted, epochs=1, **priced)))[
            "training assistant"
        ]
        for wanted in ("auto", "sft", "kto")
    }
    assert found["auto"].text == found["kto"].text
    assert (
        "its newest dataset version by KTO: 560 rows" in found["auto"].text
        and "elsewhere" in found["auto"].text
    )
    assert "its newest dataset version by SFT: 60 rows" in found["sft"].text
    no_pairs = _told(_settings(tmp_path, training=Training(method="dpo")))["training assistant"]
    assert no_pairs.state == "problem" and "data-1: the dataset version has no pairs" in no_pairs.text


def test_an_engine_that_sleeps_meanwhile_is_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("NVIDIA L4", 24 << 30, 1 << 10)
    monkeypatch.setattr(doctor, "find_machine", lambda: msgspec.structs.replace(SMALL, gpus=[gpu]))
    asleep = Training(window="02:00-05:00", engine_asleep=True)
    found = _told(_settings(tmp_path / "data", training=asleep))["training assistant"]
    assert found.state == "ok" and "engines that Starloop starts sleep while it trains" in found.text
    assert "--gpu-memory-utilization" not in found.text


def test_a_limit_on_memory_that_is_too_low_is_a_problem(tmp_path: Path) -> None:
    found = _told(_settings(tmp_path / "data", training=Training(memory_limit=100 << 20)))[
        "training assistant"
    ]
    assert found.state == "problem" and "[training] memory_limit is 0.1 GB; raise it" in found.text


def test_a_cpu_that_others_fill_is_warned_of_without_words_about_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Machine(cores=2, memory=16 << 30, free=1 << 20)
    monkeypatch.setattr(doctor, "find_machine", lambda: full)
    found = _told(_settings(tmp_path / "data"))["training assistant"]
    assert found.state == "warning" and "gpu" not in found.text and "end what else runs here" in found.text


def test_a_base_whose_weights_cannot_be_read_gets_no_estimate(tmp_path: Path, tiny_base: Path) -> None:
    """As one in PyTorch's own form, or of which a part has not arrived yet."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    settings = _settings(
        tmp_path / "data", engine=[Engine(base=str(base))], model=[Model(name="assistant", base=str(base))]
    )
    found = _told(settings)["training assistant"]
    assert found.state == "note" and found.text.endswith("so what its training takes is not known")


def test_rows_that_the_base_cannot_be_trained_on_are_a_problem(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """All have tools, which the starter's template does not render."""
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    _with_dataset(sqlite_database, tmp_path, train=[row(n, tools=[tool]) for n in range(60)])
    found = _told(_settings(tmp_path))["training assistant"]
    assert found.state == "problem" and "all 60 rows have tools" in found.text
