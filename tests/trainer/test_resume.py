"""A training that is killed goes on from its newest whole checkpoint, and ends with the weights that it would have had."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch

from feedback.errors import ConflictError, StarloopError
from tests.trainer.tiny import row, training_spec, write_dataset
from trainer import checkpoints, finetune, training_state
from trainer.checkpoints import STATE, TENSORS, read_checkpoint, write_checkpoint
from trainer.training import Progress, TrainingSpec, train

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
EPOCHS = 12
STEPS = 3 * EPOCHS


class KilledError(BaseException):
    """What `kill -9` looks like from inside."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row(number, weight=1.0 - number / 100) for number in range(24)]
    return write_dataset(tmp_path_factory.mktemp("data") / "version", rows, [*rows, *rows] * 3)


def spec(base: Path, dataset: Path, out: Path, **changes: Any) -> TrainingSpec:
    return training_spec(base, dataset, out, **({"epochs": EPOCHS, "checkpoint_seconds": 0.0} | changes))


def run(asked: TrainingSpec, emit: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    return finetune.main(msgspec.to_builtins(asked), emit)


def weights(out: Path) -> bytes:
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(
    tiny_base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, dict[str, Any]]:
    """Weights and facts of the training that nobody interrupts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    facts = run(spec(tiny_base, dataset, out))
    return weights(out), facts


def killing(at: int) -> Callable[[dict[str, Any]], None]:
    def emit(event: dict[str, Any]) -> None:
        if event["step"] == at:
            raise KilledError

    return emit


def test_killed_at_any_of_ten_random_steps_it_ends_with_the_same_weights_and_history(
    tiny_base: Path, dataset: Path, tmp_path: Path, whole: tuple[bytes, dict[str, Any]]
) -> None:
    """Each attempt is killed further on, so that a checkpoint of a checkpoint is gone on from as well."""
    asked = spec(tiny_base, dataset, tmp_path / "run")
    kills = sorted(random.Random(5).sample(range(1, STEPS), 10))
    for at in kills:
        with pytest.raises(KilledError):
            run(asked, killing(at))
    facts = run(asked)
    assert weights(tmp_path / "run") == whole[0]
    assert facts["resumed_at"] == kills
    for name in ("history", "best_step", "validation_loss", "tokens", "steps"):
        assert facts[name] == whole[1][name], name


def test_a_half_written_or_damaged_checkpoint_is_passed_over(
    tiny_base: Path, dataset: Path, tmp_path: Path, whole: tuple[bytes, dict[str, Any]]
) -> None:
    asked = spec(tiny_base, dataset, tmp_path)
    with pytest.raises(KilledError):
        run(asked, killing(20))
    found = sorted((tmp_path / "checkpoints").iterdir())
    assert [folder.name for folder in found] == ["step-00000019", "step-00000020"]
    cut = (found[1] / TENSORS).read_bytes()
    (found[1] / TENSORS).write_bytes(cut[: len(cut) // 2])
    unfinished = tmp_path / "checkpoints" / "step-00000021.partial"
    shutil.copytree(found[1], unfinished)
    assert run(asked)["resumed_at"] == [19]
    assert weights(tmp_path) == whole[0]


@pytest.mark.parametrize(
    "damage",
    ["no state", "cut state", "other state", "a list", "another form", "other tensors", "no tensors"],
)
def test_what_is_not_whole_is_no_checkpoint(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, 3, "this", b"three", {"step": 3})
    write_checkpoint(tmp_path, 4, "this", b"four", {"step": 4})
    folder = tmp_path / "checkpoints" / "step-00000004"
    if damage == "no state":
        (folder / STATE).unlink()
    elif damage == "cut state":
        (folder / STATE).write_text((folder / STATE).read_text()[:-10])
    elif damage == "other state":
        (folder / STATE).write_text((folder / STATE).read_text().replace('{"step": 4}', '{"step": 5}'))
    elif damage == "another form":
        (folder / STATE).write_text((folder / STATE).read_text().replace('"form": 2', '"form": 1'))
    elif damage == "a list":
        (folder / STATE).write_text("[]")
    elif damage == "other tensors":
        (folder / TENSORS).write_bytes(b"fore")
    else:
        (folder / TENSORS).unlink()
    assert read_checkpoint(tmp_path, "this") == (b"three", {"step": 3})


def test_a_checkpoint_of_another_training_is_not_taken(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 3, "this", b"three", {"step": 3})
    assert read_checkpoint(tmp_path, "that") is None


def test_what_a_kill_left_unfinished_is_removed_with_the_next_checkpoint(tmp_path: Path) -> None:
    unfinished = tmp_path / "checkpoints" / "step-00000008.partial"
    unfinished.mkdir(parents=True)
    (unfinished / TENSORS).write_bytes(b"half")
    write_checkpoint(tmp_path, 9, "this", b"nine", {})
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-00000009"]


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100):
        write_checkpoint(tmp_path, step, "this", b"x", {})
    assert checkpoints.reached(tmp_path) == 100
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000011",
        "step-00000100",
    ]


def test_a_checkpoint_of_a_step_that_was_gone_back_to_takes_the_place_of_later_ones(tmp_path: Path) -> None:
    for step in (180, 190, 120, 125):
        write_checkpoint(tmp_path, step, "this", b"x", {"step": step})
        assert checkpoints.reached(tmp_path) == step
        assert read_checkpoint(tmp_path, "this") == (b"x", {"step": step})


def test_killed_about_its_going_back_a_training_ends_as_if_nobody_had(
    tiny_base: Path, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", map(row, range(96)), map(row, range(96, 256)))

    def asked(name: str) -> TrainingSpec:
        return spec(tiny_base, data, tmp_path / name, epochs=9, learning_rate=0.028)

    steps: list[int] = []
    facts = run(asked("whole"), lambda event: steps.append(event["step"]))
    back = next(place for place, step in enumerate(steps[1:], 1) if step <= steps[place - 1])
    for beside in (-1, 0, 3):  # as it goes back, as it is made again, and once there are checkpoints of that
        name, heard = f"killed{beside}", []

        def emit(event: dict[str, Any], heard: list[int] = heard, last: int = back + beside) -> None:
            heard.append(event["step"])
            if len(heard) > last:
                raise KilledError

        with pytest.raises(KilledError):
            run(asked(name), emit)
        again = run(asked(name))
        expected = steps[back + beside] - (
            beside == -1
        )  # the line before it goes back comes without a checkpoint
        assert again["resumed_at"] == [expected]
        assert weights(tmp_path / name) == weights(tmp_path / "whole")
        assert again["history"] == facts["history"] and again["diagnoses"] == facts["diagnoses"]


def test_checkpoints_take_a_small_share_of_the_time_however_slow_the_disk() -> None:
    now = 0.0
    schedule = checkpoints.Schedule(60.0, lambda: now)
    assert not schedule.due
    now = 60.0
    assert schedule.due
    now = 70.0
    schedule.made(10.0)
    now = 560.0
    assert not schedule.due, "ten seconds of saving are paid off after five hundred"
    now = 570.0
    assert schedule.due


def test_what_decides_no_weights_does_not_make_another_training(tiny_base: Path, dataset: Path) -> None:
    asked = spec(tiny_base, dataset, Path("here"))
    replaced = msgspec.structs.replace(asked, out="there", timeout_seconds=5.0, checkpoint_seconds=9.0)
    assert replaced.digest == asked.digest
    assert msgspec.structs.replace(asked, seed=1).digest != asked.digest


def trainings() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "trainer.child" in child.cmdline()]


def test_a_child_that_is_killed_is_started_again_and_goes_on(
    tiny_base: Path, dataset: Path, tmp_path: Path, whole: tuple[bytes, dict[str, Any]]
) -> None:
    to_come = [7, 25]

    def kill(progress: Progress) -> None:
        if to_come and progress.step >= to_come[0]:
            to_come.pop(0)
            (child,) = trainings()
            child.send_signal(signal.SIGKILL)

    trained = train(spec(tiny_base, dataset, tmp_path), kill)
    assert weights(tmp_path) == whole[0]
    assert trained.facts["deaths"] == len(trained.facts["resumed_at"]) == 2
    assert trained.facts["resumed_at"][0] >= 6 and trained.facts["resumed_at"][1] >= 24
    assert not (tmp_path / "checkpoints").exists(), "a training that is done needs none"


def test_a_stopped_training_goes_on_when_it_is_asked_for_again(
    tiny_base: Path, dataset: Path, tmp_path: Path, whole: tuple[bytes, dict[str, Any]]
) -> None:
    """As a loop does that is ended, or dies, in the middle of a cycle."""

    def stop(progress: Progress) -> None:
        if progress.step >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec(tiny_base, dataset, tmp_path), stop)
    assert trainings() == []
    trained = train(spec(tiny_base, dataset, tmp_path), lambda progress: None)
    assert trained.facts["resumed_at"][0] >= 9
    assert weights(tmp_path) == whole[0]


def test_two_processes_do_not_train_in_one_folder(tiny_base: Path, dataset: Path, tmp_path: Path) -> None:
    asked = spec(tiny_base, dataset, tmp_path)

    def again(progress: Progress) -> None:
        with pytest.raises(ConflictError, match="under way in another process"):
            train(asked, lambda progress: None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, again)


def test_a_disk_that_takes_no_checkpoint_is_said_once_and_the_training_goes_on(
    tiny_base: Path,
    dataset: Path,
    tmp_path: Path,
    whole: tuple[bytes, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        if "checkpoints" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    events: list[dict[str, Any]] = []
    facts = run(spec(tiny_base, dataset, tmp_path), events.append)
    assert weights(tmp_path) == whole[0]
    (told,) = [text for event in events for text in event["noticed"]]
    assert told.startswith("the checkpoint of step 1 could not be saved (No space left on device); make room")
    assert [one["kind"] for one in facts["diagnoses"]] == ["checkpoint_not_saved"]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_memory_that_takes_no_copy_for_a_checkpoint_is_said_once_and_the_training_goes_on(
    tiny_base: Path,
    dataset: Path,
    tmp_path: Path,
    whole: tuple[bytes, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The allocation that fails is real: torch refuses more memory than there is."""
    monkeypatch.setattr(training_state, "packed", lambda tensors: torch.empty(1 << 50))
    facts = run(spec(tiny_base, dataset, tmp_path))
    assert weights(tmp_path) == whole[0]
    (told,) = facts["diagnoses"]
    assert told["kind"] == "checkpoint_not_saved"
    assert told["text"].endswith("(no memory is left to make it in); give the training more")


def test_an_end_that_would_come_again_leaves_no_checkpoints(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(StarloopError, match="overflow"):
        train(spec(tiny_base, dataset, tmp_path, learning_rate=1.0, epochs=2), lambda progress: None)
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_is_plain_tensors_and_json(tiny_base: Path, dataset: Path, tmp_path: Path) -> None:
    """Nothing in it is code: who can write to the folder cannot run anything here."""
    with pytest.raises(KilledError):
        run(spec(tiny_base, dataset, tmp_path), killing(2))
    folder = tmp_path / "checkpoints" / "step-00000002"
    assert sorted(file.name for file in folder.iterdir()) == [STATE, TENSORS]
    assert json.loads((folder / STATE).read_text())["state"]["step"] == 2


def test_the_last_seconds_lines_are_told_again_for_a_parent_that_had_not_recorded_them(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(KilledError):
        run(spec(tiny_base, dataset, tmp_path), killing(9))
    run(spec(tiny_base, dataset, tmp_path), events.append)
    assert [event["step"] for event in events] == list(range(STEPS + 1))
