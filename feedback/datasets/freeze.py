"""Dataset versions: examples frozen as JSONL with a manifest, written whole or not at all, and known by content hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from feedback.datasets.chat import base_examples
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import Curated, Example, curate
from feedback.datasets.evidence import place_base, read_evidence
from feedback.datasets.splits import validates
from feedback.errors import ConflictError, NotFoundError, StorageError
from feedback.registry.models import get_model
from feedback.registry.versions import get_version
from feedback.settings import Dataset, Settings
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion
from feedback.storage.tables import Example as ExampleRow

SPLITS = ("train", "validation")
RULES = 1
"""Raised whenever curation would choose otherwise from the same record."""


def build_dataset(
    database: Database,
    settings: Settings,
    model: str,
    dataset_id: str,
    guards_off: Collection[str],
    now: datetime,
) -> DatasetVersion:
    """Curate and freeze the model's next dataset version under `dataset_id`; asked again, the same one is returned.

    Raises `DataRefusedError` when there is too little to train on, `ConflictError` when the split share changed,
    `NotFoundError` for an unknown model, `StorageError` when it cannot be written.
    """
    configured = settings.model_named(model)
    if configured is None:
        raise NotFoundError(f"there is no [[model]] named {model!r} in the configuration")
    contract = TaskContract.from_settings(configured)
    base = base_examples(configured)
    with database.session() as session:
        existing = session.get(DatasetVersion, dataset_id)
        if existing is not None:
            return existing
        _check_share(session, model, settings.dataset)
        parent, learned = _champion_dataset(session, model)
        said = [one.said for one in read_evidence(session, model, settings.dataset) if one.side == "train"]
        placed = place_base(session, base, settings.dataset)
        session.commit()  # groups stay, whatever comes of the rest
    teaching = [(row, group) for row, group, side in placed if side == "train"]
    curated = curate(said, teaching, learned, contract, settings.dataset, guards_off)
    rows = _rows(curated, settings.dataset)
    folder = settings.directory / "datasets" / dataset_id
    manifest = _manifest(
        rows, curated, model, dataset_id, parent, settings.dataset, guards_off, contract, now
    )
    _write(folder, rows, manifest)
    version = DatasetVersion(
        id=dataset_id,
        model=model,
        parent_id=parent,
        content_hash=manifest["content_hash"],
        created=now.timestamp(),
        note=manifest["note"],
        manifest=manifest,
    )
    with database.session() as session:
        session.add(version)
        session.add_all(_lineage(dataset_id, rows))
        session.commit()
    return version


def read_rows(directory: Path, dataset_id: str, split: str) -> Iterator[dict[str, Any]]:
    """Rows of one split, streamed from the frozen file. Raises `NotFoundError` when it is not there."""
    file = directory / "datasets" / dataset_id / f"{split}.jsonl"
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except FileNotFoundError:
        raise NotFoundError(
            f"{file}: the dataset version's rows are not there; restore them from a backup"
        ) from None


def check_files(directory: Path, version: DatasetVersion) -> bool:
    """Whether the frozen files are still those that the version's content hash was computed from."""
    folder = directory / "datasets" / version.id
    try:
        return _hash([(folder / f"{split}.jsonl").read_bytes() for split in SPLITS]) == version.content_hash
    except OSError:
        return False


Row = tuple[str, Example]
"""Split and example."""


def _rows(curated: Curated, settings: Dataset) -> list[Row]:
    examples = sorted([*curated.corrections, *curated.replay], key=lambda example: example.content_hash)
    return [
        ("validation" if validates(example.group_key, settings.validation_share) else "train", example)
        for example in examples
    ]


def _manifest(
    rows: Sequence[Row],
    curated: Curated,
    model: str,
    dataset_id: str,
    parent: str | None,
    settings: Dataset,
    guards_off: Collection[str],
    contract: TaskContract,
    now: datetime,
) -> dict[str, Any]:
    slices = Counter(contract.slice_of(example.answer) or "all" for example in curated.new)
    named = ", ".join(f"{count} {name}" for name, count in slices.most_common(6))
    more = f" and {len(slices) - 6} kinds more" if len(slices) > 6 else ""
    note = f"added {len(curated.new)} example{'' if len(curated.new) == 1 else 's'}"
    if named and set(slices) != {"all"}:
        note += f": {named}{more}"
    note += f"; {len(curated.replay)} replayed"
    return {
        "id": dataset_id,
        "model": model,
        "parent_id": parent,
        "created": now.isoformat(),
        "content_hash": _hash([_jsonl(rows, split) for split in SPLITS]),
        "note": note,
        "rules": RULES,
        "guards_off": sorted(guards_off),
        "settings": {name: getattr(settings, name) for name in settings.__struct_fields__},
        "counts": {
            "rows": len(rows),
            "new": len(curated.new),
            "splits": dict(Counter(split for split, _ in rows)),
            "sources": dict(Counter(example.source for _, example in rows)),
            "slices": dict(Counter(contract.slice_of(example.answer) or "all" for _, example in rows)),
        },
        "left_out": curated.dropped,
    }


def _write(folder: Path, rows: Sequence[Row], manifest: dict[str, Any]) -> None:
    """Write beside the target and rename, so that a dataset directory is always complete."""
    scratch = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for split in SPLITS:
            _write_through(scratch / f"{split}.jsonl", _jsonl(rows, split))
        _write_through(scratch / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False).encode())
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that crashed before its row was written
        scratch.rename(folder)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise StorageError(
            f"{folder}: the dataset cannot be written ({error.strerror}); nothing was left"
        ) from error


def _write_through(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _jsonl(rows: Sequence[Row], split: str) -> bytes:
    lines = (json.dumps(_line(example), ensure_ascii=False) + "\n" for side, example in rows if side == split)
    return "".join(lines).encode()


def _line(example: Example) -> dict[str, Any]:
    return {
        "id": example.content_hash,
        "messages": example.messages,
        "answer": example.answer,
        "weight": 1.0,
        "new": example.new,
        "source": example.source,
        "group": example.group_key,
    }


def _hash(contents: Sequence[bytes]) -> str:
    """Over each file's own hash, so that a row cannot move from one file to the next unseen."""
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def _lineage(dataset_id: str, rows: Sequence[Row]) -> list[ExampleRow]:
    return [
        ExampleRow(
            dataset_id=dataset_id,
            position=position,
            content_hash=example.content_hash,
            split=split,
            source=example.source,
            new=example.new,
            group_key=example.group_key,
            inference_id=example.inference_id,
            feedback_id=example.feedback_id,
            rater=example.rater,
        )
        for position, (split, example) in enumerate(rows)
    ]


def _champion_dataset(session: Session, model: str) -> tuple[str | None, set[str]]:
    """What the present champion was trained on: the parent, and the content hashes in it."""
    champion = get_model(session, model).champion
    parent = get_version(session, model, champion).dataset_id if champion else None
    if parent is None:
        return None, set()
    return parent, set(session.exec(select(ExampleRow.content_hash).where(ExampleRow.dataset_id == parent)))


def _check_share(session: Session, model: str, settings: Dataset) -> None:
    """Another share would move rows from one side to the other, and training would meet what it is judged by."""
    query = (
        select(DatasetVersion).where(DatasetVersion.model == model).order_by(col(DatasetVersion.id).desc())
    )
    last = session.exec(query).first()
    was = last.manifest["settings"]["evaluation_share"] if last else settings.evaluation_share
    if was != settings.evaluation_share:
        raise ConflictError(
            f"[dataset] evaluation_share is {settings.evaluation_share}, but {model}'s data was split at {was}; "
            "sides must never change, so set it back"
        )
