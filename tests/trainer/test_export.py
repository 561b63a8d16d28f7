"""Versions as folders for use elsewhere: whole or not at all, and what they answer is what the version answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from feedback.errors import BadInputError, ConflictError, NotFoundError, StorageError, UnsoundAdapterError
from feedback.registry.versions import mark_version
from feedback.storage.database import Database
from server.command import main
from tests.trainer.test_publication import NOW, Desk, FakeTraining
from tests.trainer.test_publication import training as training
from tests.trainer.tiny import row, write_dataset
from trainer import export as exports
from trainer import merge
from trainer.export import Exported, export_version


@pytest.fixture
def desk(sqlite_database: Database, tmp_path: Path, tiny_base: Path) -> Desk:
    return Desk(sqlite_database, tmp_path, tiny_base)


def _export(desk: Desk, output: Path, number: str = "1.0", merged: bool = False) -> Exported:
    return export_version(desk.database, desk.settings, "assistant", number, output, merged, NOW)


def _logits(model: Any, base: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = tokenizer("where is my parcel?", return_tensors="pt")
    with torch.inference_mode():
        logits: torch.Tensor = model(**tokens).logits
    return logits


def test_merged_weights_answer_as_base_and_adapter_do_and_load_in_a_pipeline(
    desk: Desk, tiny_base: Path, tmp_path: Path
) -> None:
    rows = [row(number) for number in range(24)]
    write_dataset(tmp_path / "datasets" / "data-1", rows, rows)
    version = desk.train()
    out = tmp_path / "elsewhere" / "assistant"
    written = _export(desk, out, merged=True)
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    plain = _logits(base, tiny_base)
    adapted = _logits(PeftModel.from_pretrained(base, desk.adapters / "assistant@1.0"), tiny_base)
    merged = _logits(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32), out)
    assert (merged - adapted).abs().max() < 0.05 * (adapted - plain).abs().max()
    stored = json.loads((tiny_base / "config.json").read_text(encoding="utf-8"))
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["dtype"] == stored["dtype"]
    talk = [{"role": "user", "content": "where is my parcel?"}]
    answer = pipeline("text-generation", model=str(out))(talk, max_new_tokens=4)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"
    assert written.adapter_hash == version.adapter_hash and "model.safetensors" in written.files
    assert json.loads((out / exports.MANIFEST).read_text(encoding="utf-8"))["dataset_id"] == "data-1"
    assert [path.name for path in out.parent.iterdir()] == ["assistant"]

    spoiled = shutil.copytree(desk.adapters / "assistant@1.0", tmp_path / "spoiled")
    weights = spoiled / "adapter_model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(weights).items()}, weights)
    spec = {"base_path": str(tiny_base), "adapter": str(spoiled), "out": str(tmp_path / "out")}
    with pytest.raises(UnsoundAdapterError, match="is not finite"):
        merge.main(spec, lambda _: None)


def test_an_adapter_leaves_as_it_was_published(desk: Desk, training: FakeTraining, tmp_path: Path) -> None:
    desk.train()
    out = tmp_path / "out"
    written = _export(desk, out)
    for name in ("adapter_config.json", "adapter_model.safetensors", "starloop.json"):
        assert (out / name).read_bytes() == (desk.adapters / "assistant@1.0" / name).read_bytes()
        assert name in written.files


def test_the_base_alone_leaves_as_a_model_of_its_own(desk: Desk, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = _export(desk, out, "base", merged=True)
    assert (written.adapter_hash, written.version) == ("", "base")
    same = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(
        _logits(same, out), _logits(AutoModelForCausalLM.from_pretrained(tiny_base), tiny_base)
    )
    with pytest.raises(BadInputError, match="add --merged"):
        _export(desk, tmp_path / "other", "base")


def test_what_cannot_be_exported_is_told_and_leaves_nothing(
    desk: Desk, training: FakeTraining, tiny_base: Path, tmp_path: Path
) -> None:
    desk.train()
    out = tmp_path / "out"
    with pytest.raises(NotFoundError, match=r"has no version '7\.0'; it has: 1\.0"):
        _export(desk, out, "7.0")
    out.mkdir()
    with pytest.raises(ConflictError, match="is there already"):
        _export(desk, out)
    out.rmdir()
    weights = desk.adapters / "assistant@1.0" / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(b"others")
    with pytest.raises(UnsoundAdapterError, match="changed since it was published"):
        _export(desk, out)
    weights.write_bytes(kept)
    with pytest.raises(StorageError, match="choose another --output"):
        _export(desk, weights / "below a file")
    os.utime(tiny_base / "config.json")
    config = (tiny_base / "config.json").read_text(encoding="utf-8")
    try:
        (tiny_base / "config.json").write_text(config + "\n", encoding="utf-8")
        with pytest.raises(ConflictError, match="put the base back that it was trained on"):
            _export(desk, out, merged=True)
    finally:
        (tiny_base / "config.json").write_text(config, encoding="utf-8")
    with desk.database.session() as session:
        mark_version(session, "assistant", "1.0", "retired")
        session.commit()
    with pytest.raises(ConflictError, match="is retired"):
        _export(desk, out)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_a_disk_without_room_is_told_before_anything_is_loaded(
    desk: Desk, training: FakeTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.train()
    monkeypatch.setattr(exports.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(StorageError, match="make room"):
        _export(desk, tmp_path / "out", merged=True)
    assert not (tmp_path / "runs" / "export").exists()


def test_a_merge_that_fails_leaves_nothing(desk: Desk, training: FakeTraining, tmp_path: Path) -> None:
    desk.train()  # its weights are no weights
    with pytest.raises(UnsoundAdapterError, match="cannot be read"):
        _export(desk, tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_the_command_is_one_of_models_and_says_what_it_wants() -> None:
    done = CliRunner().invoke(main, ["models", "--help"])
    assert "export" in done.stdout and "merged weights" in done.stdout
    shown = CliRunner().invoke(main, ["models", "export", "--help"])
    assert "Example: starloop models export" in shown.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", "server.command", "models", "export", "assistant"],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 1 and "write MODEL@VERSION" in wrong.stderr
