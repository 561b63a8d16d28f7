"""A version as a folder for use elsewhere: its adapter as published, or its base with the adapter in the weights.

The folder appears whole or not at all, and never takes another's place.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from feedback.checks.cost import weight_files
from feedback.errors import BadInputError, ConflictError, StorageError, UnsoundAdapterError
from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.registry.bases import Base, resolve_base
from feedback.registry.models import get_model
from feedback.registry.versions import get_version
from feedback.reports.card import model_card
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import ModelVersion
from trainer.process import default_threads, run_child

BASE = "base"
MANIFEST = "starloop-export.json"
_SECONDS = 7200.0


class Exported(Struct, kw_only=True):
    """What stands in the folder; also its `starloop-export.json`."""

    model: str
    version: str
    merged: bool
    base: str
    base_revision: str
    adapter_hash: str = ""
    dataset_id: str | None = None
    note: str = ""
    exported: str = ""
    files: dict[str, str] = {}
    """SHA-256 of each file."""


def export_version(
    database: Database,
    settings: Settings,
    name: str,
    number: str,
    output: Path,
    merged: bool,
    now: datetime,
) -> Exported:
    """Write a version, or with the number `base` the model's base, into a new folder.

    Raises `NotFoundError` for an unknown model or version, `BadInputError` for a base that is to be no merged model,
    `ConflictError` where the folder exists or the base is not the one that the version was trained on, `UnsoundAdapterError`
    where the adapter is not what was published, `StorageError` where the folder cannot be written.
    """
    version: ModelVersion | None = None
    card: str | None = None
    with database.reading() as session:
        base_name = get_model(session, name).base
        if number != BASE:
            version = get_version(session, name, number)
            base_name = version.base
            card = model_card(session, name, number)
    if version is None and not merged:
        raise BadInputError(f"{name}@{BASE} has no adapter; add --merged to export the base's own weights")
    if output.exists():
        raise ConflictError(f"{output}: is there already; choose another --output, or remove it first")
    base = resolve_base(base_name, settings.directory)
    about = Exported(
        model=name,
        version=number,
        merged=merged,
        base=base_name,
        base_revision=base.revision,
        exported=now.isoformat(timespec="seconds"),
    )
    adapter: Path | None = None
    if version is not None:
        adapter = _proved(AdapterStore(settings.directory / "adapters"), version, base)
        about.adapter_hash, about.dataset_id, about.note = (
            version.adapter_hash,
            version.dataset_id,
            version.note,
        )
    return _written(output, about, base, adapter, settings, card)


def _proved(store: AdapterStore, version: ModelVersion, base: Base) -> Path:
    """The folder of a version's adapter, once it has proved to be what was published for this very base."""
    name = adapter_name(version.model, version.number)
    if version.state == "retired":
        raise ConflictError(f"{name} is retired and its adapter removed; export another version")
    if store.check(name) != version.adapter_hash:
        raise UnsoundAdapterError(f"{store.path(name)}: holds other weights than {name} was published with")
    if base.revision != version.base_revision:
        raise ConflictError(
            f"{name} was trained on revision {version.base_revision[:12]} of {version.base}, but {base.path} holds "
            f"{base.revision[:12]}; put the base back that it was trained on"
        )
    return store.path(name)


def _written(
    output: Path, about: Exported, base: Base, adapter: Path | None, settings: Settings, card: str | None
) -> Exported:
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if about.merged:
            _need_room(output.parent, base)
            _merge(partial, base, adapter, settings)
        else:
            assert adapter is not None
            shutil.copytree(adapter, partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        about.files = {file.name: _digest(file) for file in sorted(partial.iterdir()) if file.is_file()}
        (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n")
        partial.rename(output)
    except OSError as error:
        raise StorageError(
            f"{output}: the folder cannot be written ({error.strerror}); make room, or choose another --output"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return about


def _merge(partial: Path, base: Base, adapter: Path | None, settings: Settings) -> None:
    spec: dict[str, Any] = {
        "base_path": base.path,
        "adapter": "" if adapter is None else str(adapter),
        "out": str(partial),
    }
    run_child(
        "trainer.merge",
        spec,
        settings.directory / "runs" / "export",
        threads=settings.training.threads or default_threads(),
        timeout_seconds=_SECONDS,
        on_event=lambda _: None,
    )


def _need_room(folder: Path, base: Base) -> None:
    """Said before a large base is loaded for nothing; of a base on the hub the size is not known here."""
    directory = Path(base.path)
    files = weight_files(directory) or directory.glob("*.bin")
    size = sum(file.stat().st_size for file in files if file.is_file())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(
            f"{folder}: the merged weights take {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room, or choose "
            "another --output"
        )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
