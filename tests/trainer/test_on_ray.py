"""A training as a job on a Ray cluster: found again, ended, lost and told in words, with nothing left that is half made.

The cluster is one over HTTP that runs jobs as processes of this machine; `test_ray.py` asks a real one.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from feedback.errors import (
    BadInputError,
    ConflictError,
    NotFoundError,
    StarloopError,
    StorageError,
    UnavailableError,
    UnsoundAdapterError,
)
from feedback.registry.cycles import cancel_cycle
from feedback.settings import Training
from feedback.storage.database import Database
from tests.trainer.fake_ray import FakeRay, fake_ray
from tests.trainer.test_tuning import Bench, chats
from tests.trainer.tiny import row, training_spec, write_dataset
from tests.trainer.world import World
from trainer import on_ray, publication, training
from trainer.checkpoints import reached
from trainer.cluster import Cluster
from trainer.cycle import run_cycle
from trainer.leftovers import sweep, troubles
from trainer.on_ray import ClusterAwayError, abandon, read_order, settle
from trainer.process import ChildDiedError
from trainer.record import LoopStoppedError
from trainer.training import JOB_LOCK, ORDER, Place, Progress, Trained, TrainingSpec, alone_in, train
from trainer.turns import WindowClosedError

Watch = Callable[[Progress], None]


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[FakeRay]:
    with fake_ray(tmp_path / "cluster") as made:
        yield made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row(number) for number in range(24)]
    return write_dataset(tmp_path_factory.mktemp("data") / "version", rows, rows)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for by the minute is waited for by the second."""
    monkeypatch.setattr(on_ray, "AWAY", 1.5)
    monkeypatch.setattr(on_ray, "SETTLE", 1.0)


def ignore(progress: Progress) -> None:
    """Watch nothing."""


def spec(base: Path, dataset: Path, out: Path, **changes: Any) -> TrainingSpec:
    return training_spec(base, dataset, out, **({"epochs": 4} | changes))


def waiting(ray: FakeRay, dataset: Path, out: Path, watch: Watch = ignore, **changes: Any) -> Trained:
    """A training whose job does nothing, or what the test says, so no base is needed."""
    ray.entrypoint = ray.entrypoint or "exec sleep 60"
    return train(spec(out, dataset, out, **changes), watch, Place("cpu", 0, ray.url))


def left(out: Path) -> list[str]:
    names = ("adapter", "trained", ORDER, "events", "left")
    return sorted(file.name for file in out.iterdir() if file.name.startswith(names))


def test_a_job_trains_the_bytes_that_this_machine_would(
    ray: FakeRay, tiny_base: Path, dataset: Path, out: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    asked = spec(tiny_base, dataset, out)
    trained = train(asked, seen.append, Place("cpu", 0, ray.url))
    (job,) = ray.submitted
    assert (job["entrypoint_num_cpus"], job["entrypoint_num_gpus"]) == (1, 0)
    assert trained.facts["ray"] == {"address": ray.url, "job": job["submission_id"]}
    assert sorted({progress.step for progress in seen if progress.step}) == list(range(1, 13))
    assert left(out) == ["adapter", "trained.json"]
    assert train(asked, ignore, Place("cpu", 0, ray.url)) == trained and len(ray.submitted) == 1

    here = train(spec(tiny_base, dataset, tmp_path / "here"), ignore)
    assert here.files == trained.files


def test_a_loop_that_stops_leaves_the_job_at_work_and_the_next_takes_it_up(
    ray: FakeRay, tiny_base: Path, dataset: Path, out: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step:
            raise LoopStoppedError("the loop is stopping")

    asked, place = spec(tiny_base, dataset, out, epochs=30, patience=1000), Place("cpu", 0, ray.url)
    with pytest.raises(LoopStoppedError):
        train(asked, stop, place)
    assert ORDER in left(out) and ray.stopped == []
    trained = train(asked, ignore, place)
    assert len(ray.submitted) == 1 and trained.facts["steps"] == 90 and trained.facts["deaths"] == 0
    assert left(out) == ["adapter", "trained.json"]


def test_a_cancelled_training_ends_its_job_and_leaves_nothing(
    ray: FakeRay, tiny_base: Path, dataset: Path, out: Path
) -> None:
    def cancel(progress: Progress) -> None:
        if progress.step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec(tiny_base, dataset, out, epochs=1000), cancel, Place("cpu", 0, ray.url))
    assert ray.stopped == [ray.submitted[0]["submission_id"]] and ray.running == [] and left(out) == []


def test_a_job_whose_node_dies_is_handed_in_again_and_goes_on_from_its_checkpoint(
    ray: FakeRay, tiny_base: Path, dataset: Path, out: Path, soon: None
) -> None:
    def kill(progress: Progress) -> None:
        if reached(out) >= 3 and len(ray.submitted) == 1:
            ray.end(ray.running[0], signal.SIGKILL) if ray.running else None

    asked = spec(tiny_base, dataset, out, epochs=40, patience=1000, checkpoint_seconds=0.0)
    trained = train(asked, kill, Place("cpu", 0, ray.url))
    assert len(ray.submitted) == 2 and trained.facts["deaths"] == 1
    assert trained.facts["resumed_at"][0] >= 3 and trained.facts["steps"] == 120


def test_what_the_training_refuses_arrives_as_itself(
    ray: FakeRay, tiny_base: Path, dataset: Path, out: Path
) -> None:
    with pytest.raises(UnsoundAdapterError, match="overflow"):
        train(spec(tiny_base, dataset, out, learning_rate=1.0), ignore, Place("cpu", 0, ray.url))
    assert len(ray.submitted) == 1 and left(out) == []


def test_a_cluster_that_is_away_is_tried_again_later_and_nothing_is_taken_for_handed_in(
    ray: FakeRay, dataset: Path, out: Path
) -> None:
    ray.away = True
    with pytest.raises(UnavailableError, match=r"Ray at http\S+ does not answer .*mend \[training\] ray"):
        waiting(ray, dataset, out)
    assert left(out) == []


def test_a_job_on_a_cluster_that_goes_away_is_taken_up_when_it_answers(
    ray: FakeRay, dataset: Path, out: Path, soon: None
) -> None:
    def go(progress: Progress) -> None:
        ray.away = True

    with pytest.raises(ClusterAwayError, match="may be at work there, and is taken up when it answers"):
        waiting(ray, dataset, out, go)
    assert left(out) == [ORDER] and len(ray.running) == 1
    ray.away = False

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        waiting(ray, dataset, out, stop)
    assert len(ray.submitted) == 1 and ray.running == [] and left(out) == []


def test_a_job_that_the_cluster_forgot_is_handed_in_again_three_times_at_most(
    ray: FakeRay, dataset: Path, out: Path, soon: None
) -> None:
    ray.forgets = True
    with pytest.raises(ChildDiedError, match=r"does not know job starloop-\w+ .* started 3 times"):
        waiting(ray, dataset, out)
    assert len({job["submission_id"] for job in ray.submitted}) == 3 and left(out) == []


def test_a_job_that_somebody_stopped_on_the_cluster_is_not_started_again(
    ray: FakeRay, dataset: Path, out: Path
) -> None:
    def somebody(progress: Progress) -> None:
        ray.stopped.append(ray.submitted[0]["submission_id"])

    with pytest.raises(
        StarloopError, match=r"was stopped on the cluster by somebody; start the training again"
    ):
        waiting(ray, dataset, out, somebody)
    assert len(ray.submitted) == 1 and left(out) == []


def test_a_job_that_finds_no_room_says_what_it_waits_for(ray: FakeRay, dataset: Path, out: Path) -> None:
    ray.full = True
    with pytest.raises(
        StarloopError,
        match=r"within 2 s and was stopped; Ray has it as PENDING, and waits for a node with 1 CPUs",
    ):
        waiting(ray, dataset, out, timeout_seconds=2.0)
    assert ray.stopped == [ray.submitted[0]["submission_id"]] and left(out) == []


def test_a_job_without_starloop_on_its_node_is_told_with_the_clusters_words(
    ray: FakeRay, dataset: Path, out: Path, soon: None
) -> None:
    ray.entrypoint = "python -c 'import nothing_of_the_kind'"
    with pytest.raises(ChildDiedError, match=r"\(FAILED\): .*No module named 'nothing_of_the_kind'"):
        waiting(ray, dataset, out)


def test_a_node_without_the_shared_directory_says_so_through_the_clusters_log(
    ray: FakeRay, dataset: Path, out: Path
) -> None:
    said = '{"event": "failed", "kind": "NotFoundError", "message": "job.json is not there on the node n1"}'
    ray.entrypoint = f"echo 'Ray greets'; echo '{said}'; exit 1"
    with pytest.raises(NotFoundError, match=r"job\.json is not there on the node n1"):
        waiting(ray, dataset, out)
    assert len(ray.submitted) == 1 and left(out) == []


def test_an_adapter_that_is_not_what_the_node_saved_is_not_taken(
    ray: FakeRay, dataset: Path, out: Path, soon: None
) -> None:
    done = '{"event": "done", "result": {"steps": 1}, "files": {"adapter_model.safetensors": "00"}}'
    ray.entrypoint = f"mkdir -p {out}/adapter; echo x > {out}/adapter/adapter_model.safetensors; " + (
        f'echo \'{done}\' > {out}/$(python -c \'import json; print("events-" + json.load(open("{out}/job.json"))["job"])\').jsonl'
    )
    with pytest.raises(StorageError, match="is not what the node saved: the data directory must be one"):
        waiting(ray, dataset, out)
    assert left(out) == []


def test_another_training_in_the_folder_ends_the_job_that_was_at_work_there(
    ray: FakeRay, dataset: Path, out: Path
) -> None:
    def stop(progress: Progress) -> None:
        raise LoopStoppedError("the loop is stopping")

    with pytest.raises(LoopStoppedError):
        waiting(ray, dataset, out, stop)
    with pytest.raises(LoopStoppedError):
        waiting(ray, dataset, out, stop, seed=1)
    first, second = (job["submission_id"] for job in ray.submitted)
    order = read_order(out)
    assert order is not None and order.job == second and ray.stopped == [first] and ray.running == [second]
    abandon(out)
    assert ray.running == [] and left(out) == []


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (200, b"<html>a page</html>", "is not Ray's jobs server"),
        (404, b"", "is not Ray's jobs server"),
        (401, b"", "set RAY_AUTH_TOKEN"),
        (400, b"no such resource", "answered 400: no such resource"),
    ],
)
def test_what_is_not_rays_jobs_server_is_said(
    ray: FakeRay, dataset: Path, out: Path, status: int, content: bytes, told: str
) -> None:
    ray.answers = status, content
    with pytest.raises(BadInputError, match=told):
        waiting(ray, dataset, out)
    assert left(out) == []


def stop_and_leave(ray: FakeRay, dataset: Path, out: Path, **changes: Any) -> str:
    """A training that is given up while the cluster is away; the file that says that its job may be at work."""

    def stop(progress: Progress) -> None:
        ray.away = True
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        waiting(ray, dataset, out, stop, **changes)
    return f"left-{ray.submitted[-1]['submission_id']}.json"


def test_what_is_no_address_is_said(dataset: Path, out: Path) -> None:
    with pytest.raises(BadInputError, match=r"\[training\] ray = 'http://head:port' is no address"):
        train(spec(out, dataset, out), ignore, Place("cpu", 0, "http://head:port"))


def test_abandoning_while_the_cluster_is_away_takes_the_order_away_and_notes_whose_it_was(
    ray: FakeRay, dataset: Path, out: Path
) -> None:
    note = stop_and_leave(ray, dataset, out)
    assert left(out) == [note]  # and the job ends by itself, as test_job.py has it
    ray.away = False
    settle(out)
    assert left(out) == [] and ray.running == [] and note == f"left-{ray.stopped[0]}.json"


def test_back_on_this_machine_nothing_trains_where_a_job_may_be_at_work_before_that_is_known_to_have_ended(
    ray: FakeRay, tiny_base: Path, dataset: Path, out: Path
) -> None:
    """From Ray to here while the cluster is away, and its job does not see the folder either."""
    note, here = stop_and_leave(ray, dataset, out), spec(tiny_base, dataset, out, epochs=1)
    began: list[Progress] = []
    with pytest.raises(
        UnavailableError,
        match=rf"may still be at work in {out}, so nobody else trains there: .*remove .*{note}",
    ):
        train(here, began.append)
    assert began == [] and len(ray.running) == 1 and left(out) == [note]
    ray.away = False
    assert train(here, ignore).facts["steps"] == 3
    assert ray.running == [] and left(out) == ["adapter", "trained.json"]


def test_a_job_that_says_itself_that_it_left_is_asked_for_nowhere_else(
    ray: FakeRay, tiny_base: Path, dataset: Path, out: Path
) -> None:
    """A cluster that is gone for good holds up nobody whose jobs could see that they were not wanted."""
    seen: list[int] = []

    def go(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step:
            ray.away = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec(tiny_base, dataset, out, epochs=40, patience=1000), go, Place("cpu", 0, ray.url))
    assert ray.away and max(seen) > 0
    assert train(spec(tiny_base, dataset, out, epochs=1), ignore).facts["steps"] == 3
    assert left(out) == ["adapter", "trained.json"]


def test_this_machine_waits_for_a_job_that_still_holds_the_folder(
    tiny_base: Path, dataset: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PATIENCE", 0.5)
    with alone_in(out, JOB_LOCK), pytest.raises(ConflictError, match="under way in another process"):
        train(spec(tiny_base, dataset, out, epochs=1), ignore)
    assert left(out) == []


def test_progress_is_passed_on_while_the_cluster_does_not_answer(
    ray: FakeRay, dataset: Path, out: Path, soon: None
) -> None:
    """What the training writes into its folder is enough."""
    seen: list[int] = []
    ended = threading.Event()

    def write() -> None:
        while (order := read_order(out)) is None and not ended.is_set():
            time.sleep(0.05)
        assert order is not None
        for step in range(1, 6):
            with (out / order.events).open("a") as events:
                events.write(f'{{"event": "progress", "step": {step}, "steps": 5}}\n')
            if ended.wait(0.4):  # together longer than the cluster may be away, each far shorter
                return
        with (out / order.events).open("a") as events:
            events.write('{"event": "failed", "kind": "UnsoundAdapterError", "message": "it diverged"}\n')

    def watch(progress: Progress) -> None:
        ray.away = bool(ray.submitted)
        seen.append(progress.step)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(UnsoundAdapterError, match="it diverged"):
            waiting(ray, dataset, out, watch)
    finally:
        ended.set()
        writer.join()
    assert sorted(set(seen) - {0}) == [1, 2, 3, 4, 5] and left(out) == []  # 0: nothing was written yet


def at_work(ray: FakeRay, folder: Path) -> str:
    """A job that a loop that is gone handed in for a training in the folder."""
    job = "starloop-left"
    folder.mkdir(parents=True)
    plain = {"address": ray.url, "release": "1", "spec": {}, "threads": 1, "gpus": 0, "memory": 0}
    (folder / ORDER).write_text(json.dumps({"job": job, "timeout_seconds": 9.0, **plain}))
    ray.submitted.append({"submission_id": job})
    ray.start(job, "exec sleep 60")
    return job


def test_a_cycle_that_is_cancelled_while_no_loop_runs_ends_its_job_at_the_next_start(
    ray: FakeRay, sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    cycle_id = world.request()
    folder = world.directory / "runs" / cycle_id
    job = at_work(ray, folder)
    record = world.record(cycle_id)
    record.begin("train")
    world.stopping.set()
    with pytest.raises(LoopStoppedError):
        run_cycle(world.workshop(), record, pauses=())
    assert ray.running == [job] and (folder / ORDER).exists()
    world.stopping.clear()
    with world.database.session() as session:
        cancel_cycle(session, cycle_id, world.clock())
        session.commit()
    assert run_cycle(world.workshop(), world.record(cycle_id), pauses=()).state == "cancelled"
    assert ray.running == [] and left(folder) == []


def test_a_fine_tuning_that_failed_leaves_no_job_at_work(
    ray: FakeRay, sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Trained:
        raise StarloopError("it came to nothing")

    monkeypatch.setattr(publication, "train", fail)
    bench = Bench(World(sqlite_database, tmp_path))
    identifier = bench.ask(bench.sent(chats()))
    job = at_work(ray, bench.world.directory / "runs" / identifier)
    assert ray.running == [job]
    bench.loop().poll()
    assert bench.row(identifier).state == "failed" and ray.running == [] and ray.stopped == [job]


def test_a_fine_tuning_whose_window_closes_ends_its_job_at_the_cluster(
    ray: FakeRay, sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a loop that was started while the window closed: as a child of this machine it is stopped, and queued again."""
    bench = Bench(World(sqlite_database, tmp_path, training=Training(window="02:00-05:00")))
    bench.world.now = bench.world.now.replace(hour=2)
    identifier = bench.ask(bench.sent(chats()))

    def close(*_: Any, **__: Any) -> Trained:
        bench.world.now = bench.world.now.replace(hour=5)
        raise WindowClosedError("waits for the training window")

    monkeypatch.setattr(publication, "train", close)
    folder = bench.world.directory / "runs" / identifier
    job = at_work(ray, folder)
    (folder / "checkpoints").mkdir()
    bench.loop().poll()
    assert bench.row(identifier).state == "queued" and (folder / "checkpoints").exists()
    assert ray.running == [] and ray.stopped == [job] and left(folder) == []


def test_a_cycle_whose_window_closes_ends_its_job_at_the_cluster_and_keeps_what_it_reached(
    ray: FakeRay, sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path, training=Training(window="02:00-05:00"))
    world.users_correct(60)
    world.people_confirm()
    cycle_id = world.request()
    folder = world.directory / "runs" / cycle_id
    job = at_work(ray, folder)
    (folder / "checkpoints").mkdir()
    left_there = run_cycle(world.workshop(), world.record(cycle_id), pauses=())  # at midnight
    assert (left_there.state, left_there.step) == ("running", "train")
    assert ray.running == [] and ray.stopped == [job] and left(folder) == []
    assert (folder / "checkpoints").exists()


def test_a_job_that_could_not_be_ended_is_ended_by_a_later_sweep(
    ray: FakeRay, sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    cycle_id = world.request()
    folder = world.directory / "runs" / cycle_id
    job = at_work(ray, folder)
    ray.away = True
    world.record(cycle_id).stop("cancelled", "by a test")
    (folder / "checkpoints").mkdir()
    assert sweep(world.workshop()) == 0 and left(folder) == [f"left-{job}.json"] and ray.running == [job]
    assert (folder / "checkpoints").exists(), "the job may be writing there"
    (told,) = (text for about, text in troubles(world.settings) if about == "training on Ray")
    assert (
        told.startswith(f"job {job} at {ray.url} was told to end") and f"nothing trains in {folder}" in told
    )
    ray.away = False
    assert sweep(world.workshop()) == 1 and left(folder) == [] and ray.running == []
    assert not (folder / "checkpoints").exists() and list(troubles(world.settings)) == []


def test_the_clusters_token_is_sent(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with Cluster(ray.url) as cluster:
        assert cluster.release() == "2.60.0"
    assert ray.tokens == ["Bearer secret"]
