"""A training in its child process: found again when it is done, told in words when it is not, and never left behind."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from feedback.errors import DataRefusedError, StarloopError, StorageError, UnsoundAdapterError
from feedback.settings import Training
from tests.trainer.tiny import row, training_spec, write_dataset
from trainer import finetune
from trainer.process import default_threads
from trainer.training import Progress, Trained, TrainingSpec, train

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row(number) for number in range(24)]
    return write_dataset(tmp_path_factory.mktemp("data") / "version", rows, rows)


def spec(base: Path, dataset: Path, out: Path, **changes: Any) -> TrainingSpec:
    return training_spec(base, dataset, out, **({"epochs": 4} | changes))


def ignore(progress: Progress) -> None:
    """Watch nothing."""


def unwanted(progress: Progress) -> None:
    """Fails where a child is started."""
    raise AssertionError("a training that was finished started again")


@pytest.fixture(scope="module")
def seen() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def trained(
    tiny_base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory, seen: list[Progress]
) -> tuple[TrainingSpec, Trained]:
    asked = spec(tiny_base, dataset, tmp_path_factory.mktemp("runs") / "one")
    return asked, train(asked, seen.append)


def left_behind(out: Path) -> list[str]:
    return sorted(file.name for file in out.iterdir() if file.name.startswith(("adapter", "trained")))


def test_a_training_tells_its_progress_and_its_facts(
    trained: tuple[TrainingSpec, Trained], seen: list[Progress]
) -> None:
    _, result = trained
    steps = [progress.step for progress in seen if progress.step]
    assert sorted(set(steps)) == list(range(1, 13))
    assert seen[-1].steps == 12 and seen[-1].loss is not None and seen[-1].validation_loss is not None
    assert result.facts["steps"] == 12 and 0 < result.facts["seconds_to_first_step"] < result.facts["seconds"]
    assert result.facts["peak_memory_bytes"] > 50_000_000
    assert left_behind(result.adapter.parent) == ["adapter", "trained.json"]


def test_a_finished_training_is_found_again(trained: tuple[TrainingSpec, Trained]) -> None:
    asked, result = trained
    assert train(asked, unwanted) == result


def test_a_finished_training_is_found_again_where_it_would_be_given_more_time(
    trained: tuple[TrainingSpec, Trained],
) -> None:
    asked, result = trained
    more = msgspec.structs.replace(asked, timeout_seconds=9e4, checkpoint_seconds=5.0)
    assert train(more, unwanted) == result


def test_the_child_writes_the_bytes_that_this_process_would(
    trained: tuple[TrainingSpec, Trained], tmp_path: Path
) -> None:
    asked, result = trained
    elsewhere = msgspec.structs.replace(asked, out=str(tmp_path))
    finetune.main(msgspec.to_builtins(elsewhere), lambda event: None)
    for name in result.files:
        assert (tmp_path / "adapter" / name).read_bytes() == (result.adapter / name).read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"epochs": 5}, {"base_revision": "r2"}, {"engine_model": "acme/renamed"}, {"threads": 2}],
)
def test_another_spec_is_another_training(
    trained: tuple[TrainingSpec, Trained], tmp_path: Path, change: dict[str, Any]
) -> None:
    asked, result = trained
    out = copied(result, tmp_path)
    here = msgspec.structs.replace(asked, **change)
    with pytest.raises(AssertionError, match="started again"):
        train(msgspec.structs.replace(here, out=str(out)), unwanted)


def test_a_finished_training_whose_adapter_was_touched_is_not_taken_for_it(
    trained: tuple[TrainingSpec, Trained], tmp_path: Path
) -> None:
    asked, result = trained
    out = copied(result, tmp_path)
    here = msgspec.structs.replace(asked, out=str(out))
    assert train(here, unwanted).files == result.files
    with (out / "adapter" / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(AssertionError, match="started again"):
        train(here, unwanted)


def copied(result: Trained, tmp_path: Path) -> Path:
    """The finished training in another place, as if it had been asked for there."""
    out = tmp_path / "run"
    (out / "adapter").mkdir(parents=True)
    for name in result.files:
        (out / "adapter" / name).write_bytes((result.adapter / name).read_bytes())
    record = msgspec.json.decode((result.adapter.parent / "trained.json").read_bytes())
    record["spec"]["out"] = str(out)
    (out / "trained.json").write_bytes(msgspec.json.encode(record))
    return out


def test_a_dataset_that_is_not_there_is_said_without_starting_a_child(
    tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataRefusedError, match=r"there is no train\.jsonl; build the dataset version again"):
        train(spec(tiny_base, tmp_path / "nowhere", tmp_path / "out"), unwanted)


def test_a_rank_above_the_engines_is_said_before_a_child_is_started(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsoundAdapterError, match=r"rank 32 is above the engine's 16; raise \[\[engine\]\]"):
        train(spec(tiny_base, dataset, tmp_path, rank=32), unwanted)
    assert list(tmp_path.iterdir()) == []


def trainings() -> list[psutil.Process]:
    """Children that train; other tests may have left their own helpers of multiprocessing."""
    return [child for child in psutil.Process().children() if "trainer.child" in child.cmdline()]


def test_a_training_that_is_killed_each_time_before_a_checkpoint_is_given_up_and_leaves_no_adapter(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    def kill(progress: Progress) -> None:
        if progress.step:
            (child,) = trainings()
            child.send_signal(signal.SIGKILL)

    with pytest.raises(StarloopError, match=r"killed \(signal 9\).*finetune\.log\. It was started 3 times"):
        train(spec(tiny_base, dataset, tmp_path, epochs=1000), kill)
    assert left_behind(tmp_path) == []


def test_a_training_out_of_time_is_ended_and_leaves_no_adapter(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(StarloopError, match=r"did not end within 1 s .* timeout_seconds"):
        train(spec(tiny_base, dataset, tmp_path, timeout_seconds=1.0), ignore)
    assert left_behind(tmp_path) == [] and trainings() == []


def test_weights_that_were_saved_and_found_unsound_are_removed(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsoundAdapterError, match="overflow"):
        train(spec(tiny_base, dataset, tmp_path, learning_rate=1.0), ignore)
    assert left_behind(tmp_path) == []


def test_a_disk_that_is_full_when_the_adapter_is_saved_is_said_and_leaves_none(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with files_no_larger_than(40_000), pytest.raises(StorageError, match=r"could not be saved .*make room"):
        train(spec(tiny_base, dataset, tmp_path), ignore)
    assert left_behind(tmp_path) == []


@contextmanager
def files_no_larger_than(limit: int) -> Iterator[None]:
    """A disk on which weights find no room and logs do: the limit passes to child processes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_that_cannot_be_written_leaves_no_adapter(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "trained.partial").mkdir()
    with pytest.raises(StorageError, match=r"trained\.json: could not be written"):
        train(spec(tiny_base, dataset, tmp_path), ignore)
    assert left_behind(tmp_path) == ["trained.partial"]


def test_a_cancelled_training_leaves_no_adapter(tiny_base: Path, dataset: Path, tmp_path: Path) -> None:
    """Cancelled as late as possible: the adapter is saved and the child is done."""

    def cancel(progress: Progress) -> None:
        if (tmp_path / "adapter").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec(tiny_base, dataset, tmp_path), cancel)
    assert left_behind(tmp_path) == []


def test_the_settings_make_the_spec_and_leave_a_core_for_serving() -> None:
    where: dict[str, Any] = {
        "base_path": "b",
        "base_revision": "r",
        "engine_model": "e",
        "dataset": "d",
        "out": "o",
        "max_rank": 8,
    }
    asked = TrainingSpec.of(Training(rank=8, seed=5), **where)
    assert (asked.rank, asked.seed, asked.max_rank, asked.threads) == (8, 5, 8, default_threads())
    assert TrainingSpec.of(Training(threads=3), **where).threads == 3
