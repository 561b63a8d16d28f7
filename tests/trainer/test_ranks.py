"""Several processes that train together make the steps of one, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch
from safetensors.torch import load_file

from feedback import errors
from tests.trainer import parent_of_a_child
from tests.trainer.test_preferences import Loaded, pair, wrong
from tests.trainer.test_process import errands_can_be_imported, gone  # noqa: F401
from tests.trainer.tiny import row, training_spec, write_dataset, write_rows
from trainer import process
from trainer.checkpoints import reached
from trainer.objectives import Objective, Supervised
from trainer.preference_rows import Answers
from trainer.preferences import Direct, Unpaired
from trainer.process import ChildDiedError, OutOfStepError, run_child
from trainer.ranks import ALONE, Ranks
from trainer.training import Place, Progress, Trained, TrainingSpec, train

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
TWO = Place("cpu,cpu")
ROWS = [row(number, weight=1.0 - number / 100) for number in range(25)]
EPOCHS = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 rows in batches of 8: of one step the second process has nothing."""
    return write_dataset(tmp_path_factory.mktemp("data") / "version", ROWS, ROWS * 5)


def spec(base: Path, dataset: Path, out: Path) -> TrainingSpec:
    return training_spec(base, dataset, out, epochs=EPOCHS, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def alone(tiny_base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(spec(tiny_base, dataset, tmp_path_factory.mktemp("runs") / "alone"), lambda progress: None)


def assert_like(found: Trained, alone: Trained) -> None:
    """The same weights and losses, but for the order in which floats are added."""
    ours, theirs = (load_file(one.adapter / "adapter_model.safetensors") for one in (found, alone))
    assert ours.keys() == theirs.keys()
    assert max(value.abs().max().item() for value in theirs.values()) > 0.1
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=2e-5)
    assert found.facts["best_step"] == alone.facts["best_step"]
    assert found.facts["tokens"] == alone.facts["tokens"]
    assert found.facts["validation_loss"] == pytest.approx(alone.facts["validation_loss"], abs=2e-5)


def trainings() -> list[psutil.Process]:
    """Those that run, in the order of their ranks."""
    found: list[tuple[str, int, psutil.Process]] = []
    for one in psutil.Process().children():
        with suppress(psutil.Error):  # one that ends just now
            if "trainer.child" in one.cmdline():
                found.append((one.environ()["RANK"], one.pid, one))
    return [one for _, _, one in sorted(found)]


def test_two_processes_train_what_one_does_and_the_first_alone_speaks_and_writes(
    tiny_base: Path, dataset: Path, tmp_path: Path, alone: Trained
) -> None:
    steps: list[int] = []
    seen = 0

    def on_progress(progress: Progress) -> None:
        nonlocal seen
        seen = max(seen, len(trainings()))
        if progress.step not in steps[-1:]:
            steps.append(progress.step)

    found = train(spec(tiny_base, dataset, tmp_path), on_progress, TWO)
    assert seen == found.facts["processes"] == 2 and alone.facts["processes"] == 1
    assert steps == list(range(4 * EPOCHS + 1))
    assert_like(found, alone)
    assert {one.name for one in tmp_path.iterdir()} >= {"adapter", "trained.json"}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_kill_of_either_ends_both_and_they_go_on_together(
    tiny_base: Path, dataset: Path, tmp_path: Path, alone: Trained, rank: int
) -> None:
    killed: list[psutil.Process] = []
    beside: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.step >= 9 and not killed:
            killed.append(trainings()[rank])
            killed[0].send_signal(signal.SIGKILL)
        beside.append(len(trainings()))

    found = train(spec(tiny_base, dataset, tmp_path), kill, TWO)
    assert found.facts["deaths"] == 1 and len(found.facts["resumed_at"]) == 1
    assert found.facts["resumed_at"][0] >= 8
    assert max(beside) == 2, "none of the first start stands beside those of the second"
    assert_like(found, alone)


def test_a_stop_ends_both_and_one_process_may_go_on(
    tiny_base: Path, dataset: Path, tmp_path: Path, alone: Trained
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec(tiny_base, dataset, tmp_path), stop, TWO)
    assert trainings() == []
    assert_like(train(spec(tiny_base, dataset, tmp_path), lambda progress: None), alone)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preferences_that_two_processes_learn_go_on_after_a_kill_to_the_very_same_weights(
    tiny_base: Path, tmp_path: Path, method: Any
) -> None:
    """Rows of unlike lengths, so that what the base says of one depends in its last digits on those beside it."""
    rows = [
        row(number, messages=[{"role": "user", "content": f"what colour is {'so ' * (number % 7)}{number}?"}])
        for number in range(26)
    ]
    data = write_dataset(tmp_path / "data", rows, rows[:2])
    write_rows(data / "pairs.jsonl", map(pair, rows[2:]))

    def asked(name: str) -> TrainingSpec:
        return training_spec(
            tiny_base,
            data,
            tmp_path / name,
            method=method,
            epochs=5,
            learning_rate=3e-3,
            checkpoint_seconds=0.0,
        )

    killed: list[psutil.Process] = []

    def kill(progress: Progress) -> None:
        if progress.step >= 8 and not killed:
            killed.append(trainings()[1])
            killed[0].send_signal(signal.SIGKILL)

    whole = train(asked("whole"), lambda progress: None, TWO)
    found = train(asked("killed"), kill, TWO)
    assert found.facts["deaths"] == 1 and found.facts["resumed_at"][0] >= 7
    assert found.files == whole.files
    assert found.facts["history"] == whole.facts["history"]


def unlike(folder: Path, asked: TrainingSpec, **second: Any) -> tuple[dict[str, Any], list[str]]:
    """A training whose second process is unlike the first (`tests.trainer.unlike`): its facts and what was noticed."""
    noticed: list[str] = []
    facts = run_child(
        "tests.trainer.unlike", msgspec.to_builtins(asked) | second, folder, threads=2, timeout_seconds=120,
        on_event=lambda event: noticed.extend((event or {}).get("noticed", [])), devices=("cpu", "cpu"),
    )  # fmt: skip
    return facts, noticed


def test_memory_that_the_second_process_lacks_is_told_by_the_first_and_both_go_on_in_smaller_pieces(
    tiny_base: Path, dataset: Path, tmp_path: Path, alone: Trained
) -> None:
    facts, noticed = unlike(tmp_path, spec(tiny_base, dataset, tmp_path), fit=3)
    assert {one["kind"] for one in facts["diagnoses"]} == {"out_of_memory"}
    assert any(
        "out of memory at step 1 with 4 examples" in told and "goes on with 2" in told for told in noticed
    )
    assert facts["validation_loss"] == pytest.approx(alone.facts["validation_loss"], abs=1e-3)


def test_memory_that_takes_no_single_example_of_the_second_process_ends_both_with_that_word(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        errors.StarloopError, match=r"out of memory at step 1 with a single example of"
    ) as raised:
        unlike(tmp_path, spec(tiny_base, dataset, tmp_path), fit=0)
    assert not isinstance(raised.value, ChildDiedError)
    assert not (tmp_path / "adapter").exists()


def test_processes_that_read_different_checkpoints_do_not_go_on(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step >= 5:
            raise KeyboardInterrupt

    asked = spec(tiny_base, dataset, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(asked, stop, TWO)
    stood = reached(tmp_path)
    with pytest.raises(OutOfStepError, match=rf"do not read the same checkpoint .* steps {stood}, 0\)"):
        unlike(tmp_path, asked, blind=True)
    assert reached(tmp_path) == stood and not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("rows", [7, 1])
def test_the_parts_of_a_step_add_up_to_the_step(tiny_base: Path, method: str, rows: int) -> None:
    loaded = Loaded(tiny_base)

    def objective() -> Objective:
        examples = [loaded.encoded(one) for one in ROWS[:8]]
        if method == "sft":
            return Supervised(loaded.base, examples)
        if method == "kto":
            return Unpaired(loaded.base, examples, [1, 0, 1, 1, 0, 0, 1, 0], 128)
        pairs = [Answers(loaded.encoded(one), loaded.encoded(one, wrong(one))) for one in ROWS[:5]]
        return Direct(loaded.base, pairs, examples[5:])

    def step(ranks: Ranks) -> tuple[float, torch.Tensor]:
        loaded.model.zero_grad()
        loss = 0.0
        for share in objective().shares(loaded.model, range(rows), 8192, ranks):
            share.backward()
            loss += share.item()
        weights = [value for value in loaded.model.parameters() if value.requires_grad]
        grads = [torch.zeros_like(value) if value.grad is None else value.grad for value in weights]
        return loss, torch.cat([one.flatten() for one in grads]).clone()

    loss, gradient = step(ALONE)
    parts = [step(Ranks(number, 3)) for number in range(3)]
    assert sum(one[0] for one in parts) == pytest.approx(loss, rel=1e-5)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(sum(one[1] for one in parts), gradient, rtol=1e-4, atol=1e-6)


def send(folder: Path, errand: str, memory: int = 0, **asked: Any) -> dict[str, Any]:
    return run_child(
        "tests.trainer.errands", {"errand": errand, **asked}, folder, threads=4, timeout_seconds=60,
        on_event=lambda event: None, devices=("cpu", "1"), memory=memory,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory so")
def test_each_process_yields_the_cores_has_its_share_and_its_own_device(tmp_path: Path) -> None:
    send(tmp_path, "write_its_place", memory=1200 << 20, places=str(tmp_path))
    places = [json.loads((tmp_path / f"place-{rank}").read_text()) for rank in (0, 1)]
    for place in places:
        assert place["nice"] == min(os.nice(0) + 10, 19) and place["threads"] == "2"
        assert place["memory"] == 600 << 20 and place["first_to_go"] == "500"
    assert [place["devices"] for place in places] == ["", "1"]


def test_what_one_alone_refuses_is_raised_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.5)
    with pytest.raises(errors.DataRefusedError, match="this cannot be, in words"):
        send(tmp_path, "refuse_as_the_second", kind="DataRefusedError")


def test_one_that_dies_while_another_waits_for_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.5)
    with pytest.raises(ChildDiedError, match=r"ended without a result: it was killed \(signal 9\)"):
        send(tmp_path, "die_as_the_second")
    with pytest.raises(ChildDiedError, match=r"ended without a result: signal 11"):
        send(tmp_path, "die_as_the_second", signal=11)


def test_one_that_has_done_its_part_and_then_ends_badly_hurries_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.5)
    assert send(tmp_path, "end_badly_as_the_second", seconds=3) == {"rank": 0}


def test_both_die_with_their_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, parent_of_a_child.__file__, str(tmp_path), "wait", "cpu", "cpu"],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline()
        children = [one.pid for one in psutil.Process(parent.pid).children()]
        assert len(children) == 2
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert all(map(gone, children))
