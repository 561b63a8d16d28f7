"""A sentence that one process holds up for the others, for no longer than it lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedback.asleep import Sign, wanted_asleep
from feedback.errors import ConflictError, SettingsError, StorageError
from feedback.settings_file import load

WINDOW = {"STARLOOP_TRAINING__WINDOW": "02:00-05:00"}
ASLEEP = {"STARLOOP_TRAINING__ENGINE_ASLEEP": "true"}


def test_what_is_held_up_is_read_by_all_for_as_long_as_it_is_held(tmp_path: Path) -> None:
    sign, other = Sign(tmp_path / "run" / "sign"), Sign(tmp_path / "run" / "sign")
    assert other.told() is None
    with sign.held("a long sentence"):
        assert other.told() == "a long sentence"
        with pytest.raises(ConflictError, match="another process"), other.held("mine"):
            pass
    assert other.told() is None
    with other.held("short"):
        assert sign.told() == "short"
    with pytest.raises(ValueError, match="of the block"), sign.held("again"):
        raise ValueError("of the block")
    assert other.told() is None


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    cannot = pytest.raises(StorageError, match="run/engines-to-sleep: cannot be written")
    with cannot, wanted_asleep(tmp_path).held("while something trains"):
        pass


def test_engines_sleep_only_in_a_window_and_only_those_that_are_managed() -> None:
    assert load(None, WINDOW | ASLEEP).training.engine_asleep
    with pytest.raises(SettingsError, match="so it needs a window"):
        load(None, ASLEEP)
    with pytest.raises(SettingsError, match=r"every .* has urls, and engines that run elsewhere are not put"):
        load(None, WINDOW | ASLEEP | {"STARLOOP_ENGINE__URLS": '["http://127.0.0.1:8100"]'})
