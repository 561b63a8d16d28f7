"""`starloop train` as it is typed, with a training that takes no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from feedback.errors import StarloopError, UnsoundAdapterError
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion
from trainer import publication
from trainer.commands.train import train
from trainer.training import Place, Progress, Trained, TrainingSpec
from trainer.training_lines import TrainingLines

FACTS: dict[str, Any] = {
    "examples": 120,
    "steps": 60,
    "seconds": 12.3,
    "stopped": "all epochs done",
    "validation_loss": 0.1234,
    "left_out": {"longer than the context": 2},
}


@pytest.fixture
def configuration(sqlite_database: Database, tmp_path: Path) -> Path:
    """A data directory with one dataset version, and a base that nobody will load."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    with sqlite_database.session() as session:
        session.add(
            DatasetVersion(
                id="data-1", model="assistant", content_hash="h", created=0.0, note="added 50", manifest={}
            )
        )
        session.commit()
    path = tmp_path / "starloop.toml"
    path.write_text(
        f'[storage]\ndirectory = "{tmp_path}"\n[[engine]]\nbase = "{base}"\n'
        f'[[model]]\nname = "assistant"\nbase = "{base}"\n'
    )
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(spec: TrainingSpec, on_progress: Callable[[Progress], None], place: Place) -> Trained:
        on_progress(Progress(step=1, steps=60, epoch=1, epochs=8, loss=2.0))
        adapter = Path(spec.out) / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        (adapter / "adapter_model.safetensors").write_text(f"weights of {spec.dataset}")
        return Trained(adapter, {}, FACTS)

    monkeypatch.setattr(publication, "train", at_once)


def call(configuration: Path, *arguments: str) -> Result:
    return CliRunner().invoke(train, [*arguments, "--config", str(configuration)])


def test_a_version_is_trained_and_published_and_what_comes_next_is_said(
    configuration: Path, trained: None
) -> None:
    result = call(configuration, "--model", "assistant", "--dataset", "data-1")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "assistant@1.0 is trained, checked and published; it is not promoted.",
        "120 examples, 60 steps in 12 s (all epochs done); validation loss 0.1234",
        "method sft: 0 right answers (0 new) beside 0 of old skill, 0 pairs: right answers are known, and imitating them says most",
        "2 examples left out: longer than the context",
        "Next: starloop models promote assistant@1.0 --reason …",
    ]
    assert result.stderr.splitlines() == [
        "training assistant on dataset data-1: loading",
        "step 1 of 60, epoch 1/8, loss 2.000",
    ]
    assert (configuration.parent / "adapters" / "assistant@1.0").is_dir()


def test_lines_of_a_training_come_every_ten_seconds_and_none_twice() -> None:
    now, said = 100.0, []
    lines = TrainingLines(said.append, lambda: now)
    lines(Progress())
    for step in range(1, 31):
        lines(Progress(step=step, steps=40, epoch=1, epochs=2))
        now += 1
    now += 60
    lines(Progress(step=30, steps=40, epoch=1, epochs=2))
    lines(Progress(step=30, steps=40, epoch=1, epochs=2))
    assert said == [f"step {step} of 40, epoch 1/2" for step in (1, 11, 21, 30)]


def test_the_same_training_by_hand_again_is_the_same_version(configuration: Path, trained: None) -> None:
    shown = [
        json.loads(call(configuration, "--model", "assistant", "--dataset", "data-1", "--json").stdout)
        for _ in range(2)
    ]
    assert shown[0] == shown[1]
    assert (shown[0]["version"], shown[0]["state"]) == ("1.0", "registered")
    run = shown[0]["facts"].pop("run")
    assert shown[0]["facts"].items() >= FACTS.items() and run.startswith("train-")


def test_a_training_by_hand_is_the_same_where_only_how_it_is_watched_over_changed(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is asked for again that ran out of time, with more of it: it goes on in its folder."""

    def runs() -> set[str]:
        return {folder.name for folder in (tmp_path / "runs").iterdir()}

    def out_of_time(spec: TrainingSpec, on_progress: Callable[[Progress], None], place: Place) -> Trained:
        Path(spec.out).mkdir(parents=True, exist_ok=True)
        raise StarloopError("finetune did not end within 60 s")

    monkeypatch.setattr(publication, "train", out_of_time)
    plain = configuration.read_text()
    for changes in ("", "timeout_seconds = 600.0", 'memory_limit = 10\nlog_to = []\nwindow = "02:00-05:00"'):
        configuration.write_text(f"{plain}[training]\n{changes}\n")
        assert call(configuration, "--model", "assistant", "--dataset", "data-1").exit_code == 1
        assert len(runs()) == 1
    configuration.write_text(f"{plain}[training]\nrank = 4\n")
    call(configuration, "--model", "assistant", "--dataset", "data-1")
    assert len(runs()) == 2, "other weights are another training"


def test_a_version_shows_how_its_training_went(configuration: Path, trained: None) -> None:
    call(configuration, "--model", "assistant", "--dataset", "data-1")
    text = call(configuration, "show", "assistant@1.0").stdout
    assert text.splitlines()[0].split() == ["epoch", "steps", "train", "validation", "new", "old"]
    shown = json.loads(call(configuration, "show", "assistant@1.0", "--json").stdout)
    assert [(one["epoch"], one["train"]) for one in shown["epochs"]] == [(1, 2.0)]
    assert call(configuration, "show", "assistant@7.7").exit_code == 1
    assert "write MODEL@NUMBER" in call(configuration, "show", "assistant").stderr


def test_a_training_that_fails_is_told_and_publishes_nothing(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(spec: TrainingSpec, on_progress: Callable[[Progress], None], place: Place) -> Trained:
        raise UnsoundAdapterError("training diverged: lower the rate")

    monkeypatch.setattr(publication, "train", diverge)
    result = call(configuration, "--model", "assistant", "--dataset", "data-1")
    assert result.exit_code == 1 and "training diverged: lower the rate" in result.stderr
    assert not (configuration.parent / "adapters").exists()


def test_both_model_and_dataset_must_be_named(configuration: Path) -> None:
    assert call(configuration, "--dataset", "data-1").exit_code == 2
    assert call(configuration, "--model", "assistant").exit_code == 2
