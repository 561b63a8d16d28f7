"""The frozen files of a dataset version: JSONL with a manifest, written whole or not at all, known by content hash.

datasets/<id>/train.jsonl, validation.jsonl, pairs.jsonl, holdout.jsonl, rated.jsonl, manifest.json
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from feedback.errors import NotFoundError, StorageError

SPLITS = ("train", "validation")
FILES = (*SPLITS, "pairs", "holdout", "rated")
"""Besides the splits: a better and a worse answer to one prompt, answers that were only rated, and failures of the evaluation side with the right answer,
which nothing is trained on."""


class Frozen(NamedTuple):
    """The rows as bytes, by file."""

    contents: dict[str, bytes]

    @classmethod
    def of(cls, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Frozen:
        """Rows, by file, as JSONL."""
        contents = {}
        for name in FILES:
            written = BytesIO()
            written.writelines(_jsonl(row).encode("utf-8", "replace") for row in rows.get(name, ()))
            contents[name] = written.getvalue()
        return cls(contents)

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over each file's own hash, so that no row can move from one file to the other unseen."""
        return _overall([hashlib.sha256(self.contents[name]).digest() for name in FILES])


def freeze_files(directory: Path, dataset_id: str, frozen: Frozen, manifest: Mapping[str, Any]) -> None:
    """Write a version's folder beside its place and rename it, so that what stands there is complete.

    What stands there already is of an attempt that crashed before its row was written. Raises `StorageError`.
    """
    folder = folder_of(directory, dataset_id)
    partial = folder.with_name(f".{dataset_id}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in FILES:
            _write_through(partial / f"{name}.jsonl", frozen.contents[name])
        _write_through(partial / "manifest.json", manifest_bytes(manifest))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"{folder}: the dataset cannot be written ({error.strerror}); make room or make it writable"
        ) from error


def read_rows(directory: Path, dataset_id: str, split: str) -> Iterator[dict[str, Any]]:
    """Rows of one file, streamed as they were frozen. Raises `NotFoundError` when it is not there."""
    file = folder_of(directory, dataset_id) / f"{split}.jsonl"
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except FileNotFoundError:
        raise NotFoundError(
            f"{file}: the rows of this dataset version are not there; restore them from a backup"
        ) from None


def check_files(directory: Path, dataset_id: str, content_hash: str) -> bool:
    """Whether the frozen files are still those that the version's content hash was computed from."""
    try:
        return files_hash(directory, dataset_id) == content_hash
    except OSError:
        return False


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as it stands in its file: what the database holds must give the same bytes."""
    return json.dumps(manifest, indent=2, ensure_ascii=False).encode("utf-8", "replace")


def files_hash(directory: Path, dataset_id: str) -> str:
    """The content hash of the files as they stand now. Raises `OSError` when one is not there."""
    folder = folder_of(directory, dataset_id)
    digests = []
    for name in FILES:
        with (folder / f"{name}.jsonl").open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return _overall(digests)


def drop_rows(directory: Path, dataset_id: str, identifiers: Collection[str]) -> str:
    """Take the rows with these ids out of the files, each replaced in one step; the new content hash.

    Doing it again changes nothing. Raises `StorageError`, and `NotFoundError` where the files are not there.
    """
    folder = folder_of(directory, dataset_id)
    try:
        for name in FILES:
            path = folder / f"{name}.jsonl"
            draft = path.with_suffix(".draft")
            with path.open("rb") as lines, draft.open("wb") as kept:
                kept.writelines(line for line in lines if _id_of(line) not in identifiers)
                kept.flush()
                os.fsync(kept.fileno())
            draft.replace(path)
        return files_hash(directory, dataset_id)
    except FileNotFoundError:
        raise NotFoundError(
            f"{folder}: the rows of this dataset version are not there; restore them from a backup, and erase again"
        ) from None
    except OSError as error:
        raise StorageError(
            f"{folder}: the dataset cannot be written ({error.strerror}); make room or make it writable"
        ) from error


def replace_manifest(directory: Path, dataset_id: str, manifest: Mapping[str, Any]) -> None:
    """Put another manifest beside the rows, in one step. Raises `StorageError`."""
    path = folder_of(directory, dataset_id) / "manifest.json"
    draft = path.with_suffix(".draft")
    try:
        _write_through(draft, manifest_bytes(manifest))
        draft.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); make room or make it writable"
        ) from error


def _id_of(line: bytes) -> str | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None  # damaged: `db verify` says so
    identifier = row.get("id") if isinstance(row, dict) else None
    return identifier if isinstance(identifier, str) else None


def folder_of(directory: Path, dataset_id: str) -> Path:
    """Where a dataset version's files stand."""
    return directory / "datasets" / dataset_id


def _jsonl(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _overall(digests: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _write_through(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
