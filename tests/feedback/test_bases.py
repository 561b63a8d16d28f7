"""Bases get a name that the engine and all adapters share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from feedback.errors import NotFoundError
from feedback.registry.bases import from_hub, resolve_base


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "My Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_directory_is_linked_under_a_relative_name(weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    base = resolve_base(str(weights), data)
    assert base.engine_model == f"bases/My-Model-{base.revision[:12]}"
    assert (data / base.engine_model).resolve() == weights
    assert base.path == str(weights)
    assert resolve_base(str(weights), data) == base


def test_the_name_survives_the_moving_of_either_directory(weights: Path, tmp_path: Path) -> None:
    base = resolve_base(str(weights), tmp_path / "data")
    moved = tmp_path / "elsewhere" / "My Model"
    moved.parent.mkdir()
    shutil.move(weights, moved)
    shutil.move(tmp_path / "data", tmp_path / "new data")
    again = resolve_base(str(moved), tmp_path / "new data")
    assert again.engine_model == base.engine_model
    assert (tmp_path / "new data" / again.engine_model).resolve() == moved


def test_other_weights_get_another_name(weights: Path, tmp_path: Path) -> None:
    before = resolve_base(str(weights), tmp_path / "data")
    (weights / "model.safetensors").write_bytes(b"other weights")
    after = resolve_base(str(weights), tmp_path / "data")
    assert after.revision != before.revision and after.engine_model != before.engine_model


def test_weights_are_read_once_while_they_stay_as_they_are(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(str(weights), tmp_path / "data")

    def never(*_: object) -> None:
        raise AssertionError("the weights were read again")

    monkeypatch.setattr("feedback.registry.bases.hashlib.file_digest", never)
    assert resolve_base(str(weights), tmp_path / "data") == base


def test_a_hub_id_stays_itself(tmp_path: Path) -> None:
    base = resolve_base("Qwen/Qwen3-0.6B", tmp_path)
    assert (base.engine_model, base.path) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")
    assert not (tmp_path / "bases").exists()


def test_a_hub_id_with_a_commit_is_that_commit_for_everybody_who_loads_it(tmp_path: Path) -> None:
    commit = "c1899de289a04d12100db370d81485cdf75e47ca"
    base = resolve_base(f"Qwen/Qwen3-0.6B@{commit}", tmp_path)
    assert base.engine_model == "Qwen/Qwen3-0.6B" and base.revision.endswith(f"@{commit}") and not base.local
    assert from_hub(base.path) == ("Qwen/Qwen3-0.6B", {"revision": commit})
    assert from_hub("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", {})
    odd = tmp_path / "a" / "b@c"
    odd.mkdir(parents=True)
    assert from_hub(str(odd)) == (str(odd), {})


@pytest.mark.parametrize("word", ["main", "v1.0", "c1899de"])
def test_a_word_that_may_move_pins_nothing(word: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="40 hexadecimal digits"):
        resolve_base(f"Qwen/Qwen3-0.6B@{word}", tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "satrter", "../up/x"])
def test_what_is_nothing_of_these_is_told_what_to_write(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="'starter'"):
        resolve_base(name, tmp_path)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"config\.json"):
        resolve_base(str(tmp_path), tmp_path / "data")
