"""Adapters are published whole or not at all, and never change afterwards (invariant 6)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from feedback.errors import BadFieldError, ConflictError, StorageError, UnsoundAdapterError
from feedback.registry.adapters import AdapterStore, adapter_name

NAME = adapter_name("assistant", "1.0")


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


def staged(tmp_path: Path, weights: bytes = b"\x01\x02\x03") -> Path:
    folder = tmp_path / "run" / weights.hex()
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 8}', encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def shown(store: AdapterStore) -> list[str]:
    """What an engine could be asked to load: names without a leading dot."""
    if not store.directory.exists():
        return []
    return sorted(path.name for path in store.directory.iterdir() if not path.name.startswith("."))


def test_a_published_adapter_is_there_under_its_name_and_checks_out(
    store: AdapterStore, tmp_path: Path
) -> None:
    folder = staged(tmp_path)
    store.publish(folder, NAME, {"steps": 12})
    assert shown(store) == ["assistant@1.0"]
    assert store.check(NAME) == store.hash_of(folder)
    assert (store.path(NAME) / "adapter_model.safetensors").read_bytes() == b"\x01\x02\x03"
    assert '"steps": 12' in (store.path(NAME) / "starloop.json").read_text(encoding="utf-8")


def test_publishing_the_same_weights_again_changes_nothing(store: AdapterStore, tmp_path: Path) -> None:
    folder = staged(tmp_path)
    store.publish(folder, NAME, {"steps": 12})
    before = (store.path(NAME) / "starloop.json").stat()
    store.publish(folder, NAME, {"steps": 13})
    assert (store.path(NAME) / "starloop.json").stat() == before


def test_a_name_never_gets_other_weights(store: AdapterStore, tmp_path: Path) -> None:
    store.publish(staged(tmp_path), NAME, {})
    with pytest.raises(ConflictError, match="never means two"):
        store.publish(staged(tmp_path, b"other"), NAME, {})
    assert (store.path(NAME) / "adapter_model.safetensors").read_bytes() == b"\x01\x02\x03"


def test_a_process_killed_before_the_rename_leaves_nothing_that_shows(
    store: AdapterStore, tmp_path: Path
) -> None:
    folder = staged(tmp_path)
    script = Path(__file__).with_name("publish_and_hang.py")
    arguments = [sys.executable, str(script), str(store.directory), str(folder), NAME]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all but renamed\n"
        process.kill()
    assert list(store.directory.iterdir()) != [], "the process was killed before it had written anything"
    assert shown(store) == []
    store.publish(folder, NAME, {})
    assert [path.name for path in store.directory.iterdir()] == [NAME], "what the dead process left is gone"
    store.check(NAME)


def test_a_disk_that_fills_up_while_copying_leaves_nothing(
    store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"\x01")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feedback.registry.adapters.shutil.copyfile", full)
    with pytest.raises(StorageError, match="No space left on device"):
        store.publish(staged(tmp_path), NAME, {})
    assert list(store.directory.iterdir()) == []


def test_weights_that_change_while_they_are_copied_are_not_published(
    store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes() + b"!")

    monkeypatch.setattr("feedback.registry.adapters.shutil.copyfile", changing)
    with pytest.raises(UnsoundAdapterError, match="changed while"):
        store.publish(staged(tmp_path), NAME, {})
    assert shown(store) == []


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x01\x02\x04"), "changed"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "missing"),
        (lambda folder: (folder / "more.bin").write_bytes(b"x"), "added"),
        (lambda folder: (folder / "starloop.json").unlink(), "no starloop.json"),
        (lambda folder: (folder / "starloop.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_folder_that_is_not_what_was_published_does_not_check_out(
    store: AdapterStore, tmp_path: Path, harm: object, told: str
) -> None:
    store.publish(staged(tmp_path), NAME, {})
    assert callable(harm)
    harm(store.path(NAME))
    with pytest.raises(UnsoundAdapterError, match=told):
        store.check(NAME)


def test_another_versions_folder_under_this_name_does_not_check_out(
    store: AdapterStore, tmp_path: Path
) -> None:
    store.publish(staged(tmp_path), NAME, {})
    store.path(NAME).rename(store.path("assistant@1.1"))
    with pytest.raises(UnsoundAdapterError, match="changed"):
        store.check("assistant@1.1")


def test_links_and_folders_are_no_adapter(store: AdapterStore, tmp_path: Path) -> None:
    folder = staged(tmp_path)
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(UnsoundAdapterError, match="plain files"):
        store.publish(folder, NAME, {})
    assert shown(store) == []


@pytest.mark.parametrize(
    "name", ["../x@1.0", "/etc@1.0", "a/b@1.0", "assistant", "assistant@1", "@1.0", "a@1.0\n"]
)
def test_only_a_versions_name_names_an_adapter(store: AdapterStore, name: str) -> None:
    with pytest.raises(BadFieldError):
        store.path(name)


def test_an_adapter_that_is_not_there_is_unsound(store: AdapterStore) -> None:
    with pytest.raises(UnsoundAdapterError):
        store.check(NAME)
