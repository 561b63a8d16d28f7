"""Trains all weights of a base on a dataset version: a model of its own in a new folder, which may be the next base.

No version comes of it: an engine takes other weights up by a restart alone, and versions beside each other share one base. So
nobody is promoted; a person names the folder as `[[engine]]` and `[[model]]` base.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from feedback.errors import BadInputError, ConflictError, StorageError
from feedback.registry.bases import resolve_base
from feedback.settings import Settings
from feedback.storage.database import Database
from trainer.checkpoints import digests_of
from trainer.export import MANIFEST
from trainer.machine import find_machine
from trainer.placement import place_on
from trainer.publication import asked_for, planned_for, spec_of
from trainer.training import Progress, train


class WholeModel(Struct, frozen=True):
    """What was trained, as its folder's manifest has it."""

    model: str
    base: str
    base_revision: str
    dataset_id: str
    note: str
    facts: dict[str, Any]
    files: dict[str, str]
    """SHA-256 of each file."""


def train_whole(
    database: Database,
    settings: Settings,
    name: str,
    dataset_id: str,
    work: Path,
    output: Path,
    on_progress: Callable[[Progress], None],
) -> WholeModel:
    """Train in the folder `work` and put what passed the checks at `output`, which must not exist.

    Interrupted and called again, it goes on from its newest checkpoint. Raises `NotFoundError` for an unknown model or dataset,
    `BadInputError` for settings that want an adapter, `ConflictError` where `output` is there, `StorageError` where it cannot be
    written, and what `trainer.training.train` raises; nothing stands at `output` then.
    """
    training = settings.training
    if output.exists():
        raise ConflictError(f"{output}: is there already; choose another --output, or remove it first")
    if training.ray or training.quantisation:
        key = "ray" if training.ray else "quantisation"
        raise BadInputError(
            f'all weights are trained on this machine and unquantised: set [training] {key} = ""'
        )
    model, dataset = asked_for(database, settings, name, dataset_id)
    base = resolve_base(model.base, settings.directory)
    folder = settings.directory / "datasets" / dataset_id
    machine = find_machine().limited_to(training.devices)
    planned_for(database, settings, machine, name, base.path, folder, "sft", whole=True)
    spec = spec_of(settings, base, dataset, work, max_rank=0, full=True)
    trained = train(spec, on_progress, place_on(machine, training))
    made = WholeModel(name, base.name, base.revision, dataset_id, dataset.note, trained.facts, trained.files)
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(trained.adapter, partial)
        if digests_of(partial) != trained.files:
            raise StorageError(f"{partial}: holds other weights than were checked; the disk may be damaged")
        (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
        partial.rename(output)
    except OSError as error:
        raise StorageError(
            f"{output}: the folder cannot be written ({error.strerror}); make room, or choose another --output; asked again, "
            "the training is not repeated"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)  # a copy as large as the base
    return made
