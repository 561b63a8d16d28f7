"""Versions that were trained on Ray, and a Starloop that is killed while its job is at work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from feedback.errors import UnavailableError
from feedback.registry.adapters import AdapterStore
from feedback.settings import Training
from feedback.storage.database import Database
from tests.trainer.fake_ray import ROOT, FakeRay, fake_ray
from tests.trainer.test_publication import Desk
from tests.trainer.tiny import row, training_spec, write_dataset
from trainer.training import ORDER, Place, TrainingSpec, train

_STARLOOP = (
    "import msgspec, sys; from trainer.training import *; "
    "train(msgspec.json.decode(sys.argv[1], type=TrainingSpec), lambda progress: None, Place('cpu', 0, sys.argv[2]))"
)


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[FakeRay]:
    with fake_ray(tmp_path / "cluster") as made:
        yield made


def test_a_version_trained_on_ray_is_checked_published_and_says_so(
    ray: FakeRay, sqlite_database: Database, tmp_path: Path, tiny_base: Path
) -> None:
    desk = Desk(sqlite_database, tmp_path, tiny_base)
    # two GPUs of a node, which this machine has not: estimates and checks of this machine's devices say nothing
    desk.settings = msgspec.structs.replace(
        desk.settings, training=Training(ray=ray.url, devices="0,1", epochs=1)
    )
    rows = [row(number) for number in range(24)]
    write_dataset(desk.settings.directory / "datasets" / "data-1", rows, rows)
    ray.away = True
    with pytest.raises(UnavailableError, match="does not answer"):
        desk.train()
    assert (desk.versions(), desk.published()) == ([], [])

    ray.away = False
    desk.settings = msgspec.structs.replace(
        desk.settings, training=Training(ray=ray.url, devices="cpu", epochs=1)
    )
    version = desk.train()
    assert (desk.versions(), desk.published()) == ([("1.0", "registered")], ["assistant@1.0"])
    assert version.facts["ray"]["job"] == ray.submitted[-1]["submission_id"]
    assert "estimate" not in version.facts
    assert AdapterStore(desk.adapters).check("assistant@1.0") == version.adapter_hash


def test_a_starloop_that_is_killed_leaves_its_job_and_the_next_takes_it_up(
    ray: FakeRay, tmp_path: Path, tiny_base: Path
) -> None:
    rows = [row(number) for number in range(24)]
    dataset = write_dataset(tmp_path / "data", rows, rows)
    out = tmp_path / "run"
    asked: TrainingSpec = training_spec(tiny_base, dataset, out, epochs=30, patience=1000)
    killed = subprocess.Popen(
        [sys.executable, "-c", _STARLOOP, msgspec.json.encode(asked).decode(), ray.url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("events-*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert (out / ORDER).exists() and ray.stopped == []
    trained = train(asked, lambda progress: None, Place("cpu", 0, ray.url))
    assert len(ray.submitted) == 1 and (trained.facts["steps"], trained.facts["deaths"]) == (90, 0)
    assert not (out / ORDER).exists()
