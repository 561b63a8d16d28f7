"""A training whose version the engines would have no room for is refused before it begins."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from feedback.errors import ConflictError
from feedback.registry.models import ensure_models
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Engine, Settings, Storage
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion
from trainer.publication import train_version

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_training_for_which_the_engines_have_no_room_is_refused(
    sqlite_database: Database, tmp_path: Path
) -> None:
    settings = Settings(
        storage=Storage(directory=str(tmp_path)), engine=[Engine(max_loras=1, max_cpu_loras=1)]
    )
    with sqlite_database.session() as session:
        ensure_models(session, settings, NOW)
        session.add(
            DatasetVersion(
                id="d", model="assistant", content_hash="h", created=NOW.timestamp(), note="", manifest={}
            )
        )
        reserve_version(session, "assistant", "c", "d", "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", "1.0", "registered")
        session.commit()
    with pytest.raises(ConflictError, match=r"max_cpu_loras is 1: retire one"):
        train_version(
            sqlite_database, settings, lambda: NOW, "assistant", "d", tmp_path / "work", lambda _: None
        )
    assert not (tmp_path / "work").exists()
