"""All weights of a base trained: a model of its own that learned, goes on after a kill, and touches nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoConfig, pipeline

from feedback.errors import BadInputError, ConflictError, DataRefusedError, StorageError, UnsoundAdapterError
from feedback.settings import Engine, Model, Settings, Storage, Training
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion
from tests.trainer.tiny import row, training_spec, write_base, write_dataset
from trainer import finetune
from trainer.checkpoints import digests_of
from trainer.commands.train import train
from trainer.export import MANIFEST
from trainer.preflight import Memory, Preflight
from trainer.trainable import Whole
from trainer.whole import train_whole
from trainer.whole_preflight import of_all_weights

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
ROWS = [row(number) for number in range(24)]


class Killed(BaseException):
    """What `kill -9` looks like from inside."""


def killing(at: int) -> Callable[[dict[str, Any]], None]:
    def emit(event: dict[str, Any]) -> None:
        if event["step"] == at:
            raise Killed

    return emit


def asked(base: Path, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    plain = {"full": True, "max_rank": 0, "epochs": 40, "learning_rate": 3e-3, "checkpoint_seconds": 0.0}
    spec: dict[str, Any] = msgspec.to_builtins(training_spec(base, dataset, out, **(plain | changes)))
    return spec


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "version", ROWS, ROWS)


def test_the_model_answers_by_itself_what_it_was_taught(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    facts = finetune.main(asked(tiny_base, dataset, tmp_path / "run"), lambda event: None)
    made = tmp_path / "run" / "adapter"
    assert not (made / "adapter_config.json").exists()
    answers = pipeline("text-generation", model=str(made), max_new_tokens=8, do_sample=False)
    said = [answers(one["messages"])[0]["generated_text"][-1]["content"] for one in ROWS]
    assert sum(given.strip() == one["answer"] for given, one in zip(said, ROWS, strict=True)) >= 23
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_base, made))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert facts["trained_parameters"] == facts["base_parameters"] and facts["rank"] is None


def test_killed_it_ends_with_the_very_same_weights(tiny_base: Path, dataset: Path, tmp_path: Path) -> None:
    quiet, killed = (asked(tiny_base, dataset, tmp_path / name, epochs=8) for name in ("quiet", "killed"))
    whole = finetune.main(quiet, lambda event: None)
    for at in (3, 11, 17):
        with pytest.raises(Killed):
            finetune.main(killed, killing(at))
    facts = finetune.main(killed, lambda event: None)
    assert facts["resumed_at"] and facts["history"] == whole["history"]
    assert digests_of(tmp_path / "killed" / "adapter") == digests_of(tmp_path / "quiet" / "adapter")


def test_it_is_saved_in_the_bases_own_number_format(dataset: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    finetune.main(asked(base, dataset, tmp_path / "run", epochs=1), lambda event: None)
    made = tmp_path / "run" / "adapter"
    assert AutoConfig.from_pretrained(made).dtype == torch.bfloat16
    assert {tensor.dtype for tensor in load_file(made / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("changes", [{"method": "kto"}, {"method": "dpo"}])
def test_what_wants_an_adapter_is_refused(
    changes: dict[str, Any], tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    spec = msgspec.convert(asked(tiny_base, dataset, tmp_path / "run", **changes), finetune.TrainingSpec)
    with pytest.raises(DataRefusedError, match="wants an adapter"):
        Whole(finetune.load_base(str(tiny_base)), spec)


def test_weights_that_are_not_finite_are_no_model(
    tiny_base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(self: Whole, folder: Path) -> dict[str, Any]:
        with torch.no_grad():
            next(self.model.parameters())[0, 0] = float("nan")
        return save(self, folder)

    save = Whole.save
    monkeypatch.setattr(Whole, "save", spoiled)
    with pytest.raises(UnsoundAdapterError, match="not finite"):
        finetune.main(asked(tiny_base, dataset, tmp_path / "run", epochs=1), lambda event: None)
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.fixture
def settings(sqlite_database: Database, tmp_path: Path) -> Settings:
    base = str(write_base(tmp_path / "base"))
    write_dataset(tmp_path / "datasets" / "data-1", ROWS, ROWS)
    with sqlite_database.session() as session:
        about = {"content_hash": "h", "created": 0.0, "note": "added 24", "manifest": {}}
        session.add(DatasetVersion(id="data-1", model="assistant", **about))
        session.commit()
    return Settings(
        storage=Storage(directory=tmp_path),
        engine=[Engine(base=base)],
        model=[Model(name="assistant", base=base)],
        training=Training(epochs=2, batch=8),
    )


def test_the_folder_is_whole_says_what_it_is_and_no_version_comes_of_it(
    sqlite_database: Database, settings: Settings, tmp_path: Path
) -> None:
    work, output = tmp_path / "runs" / "train-1", tmp_path / "made" / "model"
    before = digests_of(tmp_path / "base")
    made = train_whole(sqlite_database, settings, "assistant", "data-1", work, output, lambda _: None)
    manifest = json.loads((output / MANIFEST).read_bytes())
    assert manifest == msgspec.to_builtins(made) and manifest["dataset_id"] == "data-1"
    files = digests_of(output)
    assert made.files == {name: value for name, value in files.items() if name != MANIFEST}
    assert digests_of(tmp_path / "base") == before and not work.exists()
    assert [entry.name for entry in output.parent.iterdir()] == ["model"]
    assert not (tmp_path / "adapters").exists()
    with pytest.raises(ConflictError, match="is there already"):
        train_whole(sqlite_database, settings, "assistant", "data-1", work, output, lambda _: None)


def test_what_was_trained_is_not_trained_again_where_the_folder_could_not_be_written(
    sqlite_database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, output = tmp_path / "runs" / "train-1", tmp_path / "made"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(StorageError, match=r"No space left on device.*not repeated"):
        train_whole(sqlite_database, settings, "assistant", "data-1", work, output, lambda _: None)
    monkeypatch.undo()
    steps: list[int] = []
    train_whole(
        sqlite_database, settings, "assistant", "data-1", work, output, lambda one: steps.append(one.step)
    )
    assert not steps and (output / "model.safetensors").is_file()


def test_settings_that_want_an_adapter_are_refused(
    sqlite_database: Database, settings: Settings, tmp_path: Path
) -> None:
    other = msgspec.structs.replace(settings, training=Training(ray="http://127.0.0.1:8265"))
    with pytest.raises(BadInputError, match=r"\[training\] ray"):
        train_whole(
            sqlite_database, other, "assistant", "data-1", tmp_path / "w", tmp_path / "o", lambda _: None
        )


def test_it_takes_twenty_bytes_a_weight_and_half_as_long_again() -> None:
    adapter = Preflight(
        device="cuda", rows=10, tokens=100, epochs=1, memory=Memory(1, 2_000, 30, 4, 5), checkpointed=2_037,
        quantised=900, seconds=60.0, cost=1.0, rests_on="",
    )  # fmt: skip
    whole = of_all_weights(adapter, 1_000)
    assert whole.memory is not None and whole.memory.total == 20_000 + 1 + 4 + 5
    assert (whole.checkpointed, whole.quantised) == (2_037 + 20_000 - 2_030, None)
    assert (whole.seconds, whole.cost) == (90.0, 1.5)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--full"], "go together"),
        (["--output", "x"], "go together"),
        (["--full", "--output", "x", "--method", "dpo"], "trains an adapter"),
    ],
)
def test_what_does_not_go_together_is_told(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(train, ["--model", "assistant", "--dataset", "data-1", *arguments])
    assert result.exit_code == 2 and problem in result.output
