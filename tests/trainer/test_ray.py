"""Trainings on a real Ray cluster, of one node on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.errors import UnavailableError
from tests.server.served import free_port
from tests.trainer.tiny import row, training_spec, write_dataset
from trainer.cluster import OVER, Cluster
from trainer.record import LoopStoppedError
from trainer.training import ORDER, Place, Progress, train

RAY = Path(sys.executable).with_name("ray")
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not RAY.exists(), reason="needs ray[default], which `make install` brings"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    port = free_port()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets' names must be short
    environment = {
        **os.environ,
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with (Path(folder) / "log").open("wb") as log:
        ray = subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--port=0", f"--dashboard-port={port}"),
                *("--dashboard-agent-listen-port=0", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats"),
                *("--object-store-memory=80000000", f"--temp-dir={folder}"),
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                with Cluster(url) as asked:
                    asked.submit(f"ready-{time.monotonic_ns()}", "true", "a test", cpus=0)
                break  # its dashboard answers before its node takes jobs
            except UnavailableError:
                assert ray.poll() is None and time.monotonic() < deadline, (Path(folder) / "log").read_text()
                time.sleep(0.5)
        yield url
    finally:
        ray.terminate()  # and it ends its whole node
        ray.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row(number) for number in range(24)]
    return write_dataset(tmp_path_factory.mktemp("data") / "version", rows, rows)


def test_a_job_on_ray_is_left_taken_up_and_trains_the_bytes_that_this_machine_would(
    cluster: str, tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step:
            raise LoopStoppedError("the loop is stopping")

    here, there = (training_spec(tiny_base, dataset, tmp_path / name, epochs=4) for name in ("here", "there"))
    with pytest.raises(LoopStoppedError):
        train(there, stop, Place("cpu", 0, cluster))
    assert (tmp_path / "there" / ORDER).exists()
    trained = train(there, lambda progress: None, Place("cpu", 0, cluster))
    assert trained.files == train(here, lambda progress: None).files
    assert trained.facts["deaths"] == 0 and not (tmp_path / "there" / ORDER).exists()


def test_a_cancelled_training_ends_its_job_on_ray(
    cluster: str, tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    names: list[str] = []

    def cancel(progress: Progress) -> None:
        if progress.step:
            names.append((tmp_path / ORDER).read_text().split('"job": "')[1].split('"')[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            training_spec(tiny_base, dataset, tmp_path, epochs=1000), cancel, Place("cpu", 1 << 30, cluster)
        )
    with Cluster(cluster) as asked:
        job = asked.look(names[0])
    assert job is not None and job.status in OVER
    assert not {"adapter", ORDER} & {file.name for file in tmp_path.iterdir()}


def test_a_node_without_the_folder_is_told_through_rays_log(cluster: str, tmp_path: Path) -> None:
    """What a node says that the folder is not mounted on, by the very entrypoint, without waiting for it."""
    with Cluster(cluster) as asked:
        wait = "import trainer.job as j, sys, pathlib; j.PATIENCE = 0; sys.exit(j.run(pathlib.Path(sys.argv[1]), 'x'))"
        asked.submit("starloop-x", f'python -P -c "{wait}" {tmp_path / "nowhere"}', "x", cpus=1)
        deadline = time.monotonic() + 60
        while (job := asked.look("starloop-x")) is None or job.status not in OVER:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert job.status == "FAILED"
        assert "under the same path on every node" in asked.log("starloop-x")
        assert asked.look("starloop-nobody") is None
        asked.stop("starloop-x")
        asked.stop("starloop-nobody")
