"""Versions for the tests: rows and published files, with no training behind them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.registry.versions import list_versions, mark_version, reserve_version
from feedback.storage.database import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def add_version(
    database: Database,
    directory: Path,
    model: str = "assistant",
    state: str = "registered",
    base: str = "starter",
) -> str:
    """The number of a new version of `model`, in the given state, with its adapter published."""
    staged = directory / "staged"
    staged.mkdir(exist_ok=True)
    store = AdapterStore(directory / "adapters")
    with database.session() as session:
        (staged / "adapter_config.json").write_text('{"r": 16}')
        (staged / "adapter_model.safetensors").write_bytes(
            f"weights {len(list_versions(session, model))}".encode()
        )
        version = reserve_version(
            session, model, None, None, base, "revision", store.hash_of(staged), "a test", {"seconds": 1}, NOW
        )
        if state != "staged":
            store.publish(staged, adapter_name(model, version.number), {})
            mark_version(session, model, version.number, "registered")
        if state not in ("staged", "registered"):
            mark_version(session, model, version.number, state)  # type: ignore[arg-type]
        session.commit()
        return version.number
