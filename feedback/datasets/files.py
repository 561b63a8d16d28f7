"""The frozen files of a dataset version: JSONL with a manifest, written whole or not at all, known by content hash.

datasets/<id>/train.jsonl, validation.jsonl, pairs.jsonl, holdout.jsonl, manifest.json
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from feedback.errors import NotFoundError, StorageError

SPLITS = ("train", "validation")
FILES = (*SPLITS, "pairs", "holdout")
"""Besides the splits: a better and a worse answer to one prompt, and failures of the evaluation side with the right answer,
which nothing is trained on."""


class Frozen(NamedTuple):
    """The rows as bytes, by file."""

    contents: dict[str, bytes]

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Frozen:
        """Rows, by file, as JSONL."""
        return cls(
            {name: "".join(map(_jsonl, rows.get(name, ()))).encode("utf-8", "replace") for name in FILES}
        )

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over each file's own hash, so that no row can move from one file to the other unseen."""
        return _overall([hashlib.sha256(self.contents[name]).digest() for name in FILES])


def freeze_files(directory: Path, dataset_id: str, frozen: Frozen, manifest: Mapping[str, Any]) -> None:
    """Write a version's folder beside its place and rename it, so that what stands there is complete.

    What stands there already is of an attempt that crashed before its row was written. Raises `StorageError`.
    """
    folder = _folder(directory, dataset_id)
    partial = folder.with_name(f".{dataset_id}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in FILES:
            _write_through(partial / f"{name}.jsonl", frozen.contents[name])
        document = json.dumps(manifest, indent=2, ensure_ascii=False)
        _write_through(partial / "manifest.json", document.encode("utf-8", "replace"))
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
    file = _folder(directory, dataset_id) / f"{split}.jsonl"
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
    folder = _folder(directory, dataset_id)
    digests = []
    try:
        for name in FILES:
            with (folder / f"{name}.jsonl").open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return False
    return _overall(digests) == content_hash


def _folder(directory: Path, dataset_id: str) -> Path:
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
