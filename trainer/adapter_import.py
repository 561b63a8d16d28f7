"""An adapter that was trained elsewhere as the next version of a model: the same door as for those trained here.

What is published is its configuration and its weights, copied, and nothing else that stood in the folder. Nothing here promotes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlmodel import Session

from feedback.access.audit import Actor, note
from feedback.errors import BadInputError, NotFoundError, StorageError, UnsoundAdapterError
from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.registry.bases import Base, resolve_base
from feedback.registry.retirements import require_room
from feedback.registry.versions import list_versions, mark_version, reserve_version
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import ModelVersion
from trainer.publication import check_adapter

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_NAMED = "base_model_name_or_path"


class Foreign(NamedTuple):
    """An adapter to take in."""

    folder: Path
    model: str
    note: str = ""
    same_base: bool = False
    """The base that it names is the model's base under another name; whoever says so vouches for it."""


def import_adapter(
    database: Database, settings: Settings, asked: Foreign, actor: Actor, now: datetime
) -> ModelVersion:
    """The adapter in a folder as a registered version of a model; the same one when it is taken in again.

    Raises `NotFoundError` for a model that is not configured, `BadInputError` for a folder that holds no adapter,
    `UnsoundAdapterError` for one that is not made for the model's base or that an engine should not load, `ConflictError` where
    the engine has no room for a version more, `StorageError` where the disk does not take it; nothing is published then.
    """
    model = settings.model_named(asked.model)
    if model is None:
        known = ", ".join(repr(one.name) for one in settings.model)
        raise NotFoundError(f"the configuration has no [[model]] named {asked.model[:80]!r}; it has {known}")
    engine = next(one for one in settings.engine if one.base == model.base)
    config = _config(asked.folder)
    base = resolve_base(model.base, settings.directory)
    store = AdapterStore(settings.directory / "adapters")
    with _staged(settings.directory) as staged:
        _copy(asked, config, base, staged)
        digest = store.hash_of(staged)
        with database.reading() as session:
            if not _taken_in_before(session, asked.model, digest):
                require_room(session, model.base, engine.adapter_limit)
        work = staged.parent / "check"
        checked = check_adapter(staged, base.path, base.engine_model, engine.max_lora_rank, work)
        facts = {
            "rank": checked["rank"],
            "alpha": config["lora_alpha"],
            "trained_parameters": checked["parameters"],
            "imported": {"folder": str(asked.folder.absolute()), "base": config.get(_NAMED)},
        }
        told = asked.note or f"trained elsewhere, taken in from {asked.folder.absolute().name}"
        with database.session() as session:
            version = reserve_version(
                session, asked.model, None, None, model.base, base.revision, digest, told, facts, now
            )
            session.commit()
        store.publish(staged, adapter_name(asked.model, version.number), version.facts)
    if version.state == "staged":
        with database.session() as session:
            version = mark_version(session, asked.model, version.number, "registered")
            note(
                session, actor, "version.import", adapter_name(asked.model, version.number), now, hash=digest
            )
            session.commit()
    return version


def _taken_in_before(session: Session, model: str, digest: str) -> bool:
    return any(
        version.adapter_hash == digest and version.dataset_id is None and version.state != "retired"
        for version in list_versions(session, model)
    )


def _config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises `BadInputError` for a folder without one or without weights."""
    if not folder.is_dir():
        raise BadInputError(f"{folder}: is no folder; name the one that peft's save_pretrained wrote")
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            raise BadInputError(
                f"{folder}: holds {PICKLED}, which may run code when it is read; save the adapter as {WEIGHTS}"
            )
        raise BadInputError(
            f"{folder}: holds no {WEIGHTS}; name the folder that peft's save_pretrained wrote"
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"{folder}: holds no {CONFIG}, which says what its weights are") from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{folder / CONFIG}: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise BadInputError(f"{folder / CONFIG}: must hold a JSON object")
    return config


def _copy(asked: Foreign, config: dict[str, Any], base: Base, staged: Path) -> None:
    """Configuration and weights, the base named as the engine is told it. Raises `UnsoundAdapterError` for another base."""
    named = config.get(_NAMED)
    if not (asked.same_base or _is_base(named, base)):
        raise UnsoundAdapterError(
            f"{asked.folder / CONFIG}: was trained on {named!r}, and the base of {asked.model} is {base.name!r}; if those are the "
            "same weights under another name, say so with --same-base"
        )
    try:
        staged.mkdir()
        if named == base.engine_model:
            shutil.copyfile(asked.folder / CONFIG, staged / CONFIG)
        else:
            text = json.dumps(config | {_NAMED: base.engine_model}, indent=2, sort_keys=True)
            (staged / CONFIG).write_text(text, encoding="utf-8")
        shutil.copyfile(asked.folder / WEIGHTS, staged / WEIGHTS)
    except OSError as error:
        raise StorageError(
            f"{staged}: the adapter could not be copied ({error.strerror}); make room"
        ) from error


def _is_base(named: Any, base: Base) -> bool:
    """Whether an adapter's name for its base is one of this base: the engine's, the settings', or the same directory."""
    if not isinstance(named, str) or not named:
        return False
    return named in (base.engine_model, base.name) or (
        Path(named).is_dir() and Path(named).resolve() == Path(base.path)
    )


@contextmanager
def _staged(directory: Path) -> Iterator[Path]:
    """A place for the copy, on the data directory's own disk; gone afterwards."""
    runs = directory / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="import-", dir=runs))
    except OSError as error:
        raise StorageError(f"{runs}: cannot be written ({error.strerror})") from error
    try:
        yield work / "adapter"
    finally:
        shutil.rmtree(work, ignore_errors=True)
