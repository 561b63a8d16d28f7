"""What somebody puts into `adapters/` by hand never reaches an engine: not promoted, pinned, evaluated or after a restart."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from feedback.registry.adapters import AdapterStore
from tests.server.inside import Inside
from tests.server.test_models import new_version, promote
from tests.server.upstream import FakeEngine

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def nan(folder: Path) -> None:
    save_file({"w": np.full((4, 4), np.nan, np.float32)}, folder / WEIGHTS)


def wrong_shapes(folder: Path) -> None:
    save_file({"w": np.ones((3, 7), np.float32)}, folder / WEIGHTS)


def truncated(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 5)


def missing(folder: Path) -> None:
    (folder / CONFIG).unlink()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def extra_link(folder: Path) -> None:
    (folder / "more").symlink_to("/etc/hostname")


def link_instead_of_a_file(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder.parent.parent / "elsewhere")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder.parent.parent / "elsewhere")


def link_instead_of_the_folder(folder: Path) -> None:
    folder.rename(folder.parent.parent / "moved")
    folder.symlink_to(folder.parent.parent / "moved")


def other_weights_with_a_manifest_of_their_own(folder: Path) -> None:
    shutil.rmtree(folder)
    staged = folder.parent.parent / "other"
    staged.mkdir()
    (staged / CONFIG).write_text("{}")
    nan(staged)
    AdapterStore(folder.parent).publish(staged, folder.name, {})


def same_size_and_time(folder: Path) -> None:
    before = (folder / WEIGHTS).stat()
    (folder / WEIGHTS).write_bytes(b"x" * before.st_size)
    os.utime(folder / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))


POISONS = [
    *(nan, wrong_shapes, truncated, missing, gone, extra_link, link_instead_of_a_file),
    *(link_instead_of_the_folder, other_weights_with_a_manifest_of_their_own, same_size_and_time),
]
every_poison = pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)


def folder(gateway: Inside, number: str) -> Path:
    return gateway.settings.directory / "adapters" / f"assistant@{number}"


@every_poison
def test_poison_in_a_registered_folder_reaches_no_engine(
    gateway: Inside, engine: FakeEngine, poison: Callable[[Path], None]
) -> None:
    number = new_version(gateway)
    poison(folder(gateway, number))
    refused = promote(gateway, number)
    assert (refused.status, refused.json["error"]["code"]) == (409, "unsound_adapter")
    pinned = gateway.ask({"model": f"assistant@{number}"})
    assert (pinned.status, pinned.headers["retry-after"]) == (503, "5")
    assert f"assistant@{number} is not asked of any engine" in pinned.json["error"]["message"]
    evaluated = gateway.ask({"model": f"assistant@{number}"}, {"x-starloop-purpose": "evaluation"})
    assert evaluated.status == 503
    assert engine.completions() == []
    assert gateway.ask().status == 200  # the champion serves on


@every_poison
def test_poison_in_a_folder_that_serves_is_noticed_and_asked_for_no_more(
    gateway: Inside, engine: FakeEngine, poison: Callable[[Path], None]
) -> None:
    number = new_version(gateway)
    promote(gateway, number)
    assert gateway.ask().status == 200
    poison(folder(gateway, number))
    gateway.eventually(lambda: gateway.ask().status == 503)
    asked = len(engine.completions())
    assert gateway.ask().status == 503
    assert len(engine.completions()) == asked
    (told,) = gateway.call("GET", "/health/ready").json["missing"]
    assert told.startswith(f"version assistant@{number}: ")


def test_a_version_that_poison_took_out_serves_again_once_its_files_are_back(
    gateway: Inside, engine: FakeEngine
) -> None:
    number = new_version(gateway)
    sound = (folder(gateway, number) / WEIGHTS).read_bytes()
    truncated(folder(gateway, number))
    assert gateway.ask({"model": f"assistant@{number}"}).status == 503
    (folder(gateway, number) / WEIGHTS).write_bytes(sound)
    gateway.eventually(lambda: gateway.ask({"model": f"assistant@{number}"}).status == 200)
    assert engine.loaded == {f"assistant@{number}"}


def test_files_that_could_not_be_read_for_a_moment_are_looked_at_again(
    gateway: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    number = new_version(gateway)
    with monkeypatch.context() as moment:
        moment.setattr("hashlib.file_digest", unreadable)
        told = gateway.ask({"model": f"assistant@{number}"})
    assert told.status == 503 and os.strerror(errno.EMFILE) in told.body.decode()
    gateway.eventually(lambda: gateway.ask({"model": f"assistant@{number}"}).status == 200)


def test_a_restarted_engine_is_asked_for_nothing_that_was_changed_while_it_was_down(
    gateway: Inside, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the moment before the folders are looked at again."""
    number = new_version(gateway)
    assert gateway.ask({"model": f"assistant@{number}"}).status == 200
    monkeypatch.setattr("server.adapter_watch._INTERVAL_SECONDS", 60.0)
    gateway.run(asyncio.sleep(0.6))
    engine.stop()
    gateway.wait_for(gateway.gateway.engines.missing)
    nan(folder(gateway, number))
    engine.loaded.clear()
    engine.start()
    gateway.wait_for(lambda: not gateway.gateway.engines.missing())
    assert gateway.ask({"model": f"assistant@{number}"}).status == 503
    assert engine.loaded == set()


def test_a_champion_that_was_changed_while_the_engine_was_down_is_not_even_warmed(
    gateway: Inside, engine: FakeEngine
) -> None:
    number = new_version(gateway)
    promote(gateway, number)
    engine.stop()
    gateway.wait_for(gateway.gateway.engines.missing)
    nan(folder(gateway, number))
    engine.loaded.clear()
    engine.start()
    gateway.wait_for(lambda: not gateway.gateway.engines.missing())
    assert gateway.ask().status == 503
    assert engine.loaded == set()
    assert gateway.ask({"model": "assistant@base"}).status == 200


def test_a_folder_under_a_name_that_nobody_registered_reaches_no_engine(
    gateway: Inside, engine: FakeEngine
) -> None:
    number = new_version(gateway)
    for name in ("assistant@7.7", "other@1.0", "loose"):
        shutil.copytree(folder(gateway, number), folder(gateway, number).with_name(name))
        assert gateway.ask({"model": name}).status == 404
        assert gateway.ask({"model": name}, {"x-starloop-purpose": "evaluation"}).status == 404
    assert promote(gateway, "7.7").status == 404
    assert engine.completions() == []


def test_files_that_did_not_change_are_read_once(gateway: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    number = new_version(gateway)
    read: list[str] = []
    real = AdapterStore.check

    def counted(self: AdapterStore, name: str) -> str:
        read.append(name)
        return real(self, name)

    monkeypatch.setattr(AdapterStore, "check", counted)
    for _ in range(5):
        assert gateway.ask({"model": f"assistant@{number}"}).status == 200
    gateway.run(asyncio.sleep(0.6))
    assert read == [f"assistant@{number}"]
    os.utime(folder(gateway, number) / WEIGHTS)  # touched, and the same
    gateway.wait_for(lambda: len(read) == 2)
    assert gateway.ask({"model": f"assistant@{number}"}).status == 200


def test_a_conversation_whose_version_was_poisoned_goes_on_with_the_champion(gateway: Inside) -> None:
    thread = {"x-starloop-conversation": "thread"}
    first, second = new_version(gateway), new_version(gateway)
    promote(gateway, first)
    assert gateway.ask(headers=thread).headers["x-starloop-version"] == f"assistant@{first}"
    promote(gateway, second)
    truncated(folder(gateway, first))
    gateway.eventually(
        lambda: gateway.ask(headers=thread).headers["x-starloop-version"] == f"assistant@{second}"
    )


def test_the_fingerprint_of_a_folder_is_small_and_stable(gateway: Inside) -> None:
    number = new_version(gateway)
    store = gateway.gateway.adapters
    name = f"assistant@{number}"
    assert store.fingerprint(name) == store.fingerprint(name)
    assert [marks[0] for marks in store.fingerprint(name)] == [name, CONFIG, WEIGHTS, "starloop.json"]
    assert store.fingerprint("assistant@9.9") == ()
    assert json.loads((folder(gateway, number) / "starloop.json").read_text())["name"] == name
