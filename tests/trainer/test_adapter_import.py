"""An adapter that peft saved elsewhere: as a version it answers as it did there, and what is no good leaves nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from msgspec.structs import replace
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from feedback.access.audit import Actor, list_audit
from feedback.errors import BadInputError, ConflictError, NotFoundError, StarloopError, UnsoundAdapterError
from feedback.registry.adapters import AdapterStore
from feedback.registry.bases import resolve_base
from feedback.reports.card import model_card
from feedback.storage.database import Database
from feedback.storage.tables import ModelVersion
from server.command import main
from tests.trainer.test_publication import NOW, Desk
from trainer import adapter_import
from trainer.adapter_import import Foreign, import_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def desk(sqlite_database: Database, tmp_path: Path, tiny_base: Path) -> Desk:
    return Desk(sqlite_database, tmp_path, tiny_base)


@pytest.fixture
def foreign(tiny_base: Path, tmp_path: Path) -> Path:
    """A folder as peft's `save_pretrained` writes it, with its README, and what a trainer leaves beside it."""
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    wrapped: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    folder = tmp_path / "elsewhere"
    wrapped.save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"pickled")
    (folder / "checkpoint-1").mkdir()
    return folder


def changed(folder: Path, **values: Any) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
    return folder


def taken(desk: Desk, folder: Path, model: str = "assistant", **values: Any) -> ModelVersion:
    return import_adapter(desk.database, desk.settings, Foreign(folder, model, **values), Actor("ann"), NOW)


def nothing_left(desk: Desk) -> bool:
    runs = desk.settings.directory / "runs"
    return desk.versions() == [] and desk.published() == [] and list(runs.glob("import-*")) == []


def test_it_becomes_a_version_that_answers_as_it_did_there(
    desk: Desk, foreign: Path, tiny_base: Path
) -> None:
    version = taken(desk, foreign, note="from the other machine")
    assert (version.number, version.state, version.note) == ("1.0", "registered", "from the other machine")
    assert (version.dataset_id, version.cycle_id) == (None, None)
    facts = version.facts
    assert (facts["rank"], facts["alpha"]) == (4, 8) and facts["trained_parameters"] > 0
    assert facts["imported"] == {"folder": str(foreign), "base": str(tiny_base)}

    store = AdapterStore(desk.adapters)
    assert store.check("assistant@1.0") == version.adapter_hash and store.manifest("assistant@1.0") == facts
    folder = desk.adapters / "assistant@1.0"
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, "starloop.json"}
    engine = resolve_base(str(tiny_base), desk.settings.directory).engine_model
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == engine

    def logits(adapter: Path) -> torch.Tensor:
        base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
        with torch.inference_mode():
            found: torch.Tensor = PeftModel.from_pretrained(base, adapter)(torch.arange(8)[None]).logits
        return found

    assert torch.equal(logits(folder), logits(foreign))
    with desk.database.reading() as session:
        assert "not on record here" in model_card(session, "assistant", "1.0")
        (act,) = list_audit(session, "version.import", 10, None).items
    assert (act.actor, act.subject) == ("ann", "assistant@1.0")
    assert list((desk.settings.directory / "runs").iterdir()) == []


def test_taken_in_again_it_is_the_same_version_and_another_is_the_next(desk: Desk, foreign: Path) -> None:
    assert taken(desk, foreign).number == taken(desk, foreign).number == "1.0"
    weights = {name: tensor * 2 for name, tensor in load_file(foreign / WEIGHTS).items()}
    save_file(weights, foreign / WEIGHTS)
    assert taken(desk, foreign).number == "1.1"
    assert desk.published() == ["assistant@1.0", "assistant@1.1"]


def test_one_that_was_interrupted_before_it_stood_is_finished(
    desk: Desk, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AdapterStore, "publish", broken)
        with pytest.raises(KeyboardInterrupt):
            taken(desk, foreign)
    assert desk.versions() == [("1.0", "staged")]
    assert taken(desk, foreign).state == "registered"
    assert desk.versions() == [("1.0", "registered")] and desk.published() == ["assistant@1.0"]


def test_another_name_of_the_base_is_taken_on_somebodys_word(
    desk: Desk, foreign: Path, tiny_base: Path
) -> None:
    changed(foreign, base_model_name_or_path="acme/tiny")
    with pytest.raises(UnsoundAdapterError, match=r"'acme/tiny'.*--same-base"):
        taken(desk, foreign)
    assert nothing_left(desk)
    version = taken(desk, foreign, same_base=True)
    assert version.facts["imported"]["base"] == "acme/tiny"


def _nan(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    first = next(iter(weights))
    save_file(weights | {first: torch.full_like(weights[first], float("nan"))}, folder / WEIGHTS)


def _half(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: weights[name] for name in sorted(weights)[:-2]}, folder / WEIGHTS)


SPOILED: dict[str, tuple[Callable[[Path], Any], type[StarloopError], str]] = {
    "not finite": (_nan, UnsoundAdapterError, "not finite"),
    "cut": (_half, UnsoundAdapterError, "lacks weights of target_modules"),
    "rank": (lambda folder: changed(folder, r=1024), UnsoundAdapterError, "rank 1024 is above"),
    "kind": (lambda folder: changed(folder, use_dora=True), UnsoundAdapterError, "DoRA"),
    "no LoRA": (lambda folder: changed(folder, peft_type="IA3"), UnsoundAdapterError, "is not a LoRA"),
    "pickled": (
        lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"),
        BadInputError,
        "may run code",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), BadInputError, "holds no adapter_model"),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), BadInputError, "holds no adapter_config"),
    "no JSON": (lambda folder: (folder / CONFIG).write_text("{"), BadInputError, "cannot be read"),
    "no object": (lambda folder: (folder / CONFIG).write_text("[]"), BadInputError, "JSON object"),
    "no folder": (shutil.rmtree, BadInputError, "is no folder"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_an_engine_should_not_load_is_told_and_leaves_nothing(
    desk: Desk, foreign: Path, what: str
) -> None:
    spoil, error, problem = SPOILED[what]
    spoil(foreign)
    with pytest.raises(error, match=problem):
        taken(desk, foreign)
    assert nothing_left(desk)


def test_a_model_that_is_not_there_and_an_engine_that_is_full_are_told(
    desk: Desk, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="'assistant', 'other'"):
        taken(desk, foreign, model="nothing")
    engine = replace(desk.settings.engine[0], max_cpu_loras=1, max_loras=1)
    desk.settings = replace(desk.settings, engine=[engine])
    taken(desk, foreign, model="other")
    monkeypatch.setattr(adapter_import, "check_adapter", None)  # it is said before anything is loaded
    with pytest.raises(ConflictError, match="max_cpu_loras is 1"):
        taken(desk, foreign)
    assert desk.versions() == []


def test_the_command_says_what_became_of_it_and_fails_on_bad_input(
    desk: Desk, foreign: Path, tiny_base: Path, tmp_path: Path
) -> None:
    configuration = tmp_path / "starloop.toml"
    configuration.write_text(
        f'[storage]\ndirectory = "{desk.settings.directory}"\n[[engine]]\nbase = "{tiny_base}"\n'
        f'[[model]]\nname = "assistant"\nbase = "{tiny_base}"\n'
    )
    rest = ["--model", "assistant", "--config", str(configuration)]
    done = CliRunner().invoke(main, ["models", "import", str(foreign), "--json", *rest])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert (told["version"], told["state"], told["note"]) == (
        "1.0",
        "registered",
        "trained elsewhere, taken in from elsewhere",
    )
    wrong = [sys.executable, "-m", "server.command", "models", "import", str(tmp_path / "none"), *rest]
    failed = subprocess.run(wrong, capture_output=True, text=True)
    assert failed.returncode == 1 and "is no folder" in failed.stderr
