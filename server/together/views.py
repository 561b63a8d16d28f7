"""Together's objects, as its client reads them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from feedback.files import stored
from feedback.storage.file_table import StoredFile

FileType = Literal["jsonl", "parquet", "csv"]
PURPOSES = {"fine-tune": "fine-tune", "eval": "evals", "batch-api": "batch"}
"""What Together's clients call purposes, and what they are here."""
_CALLED = {ours: theirs for theirs, ours in PURPOSES.items()}


class FileObject(Struct, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    file_type: str = field(name="FileType")
    purpose: str
    processing_status: Literal["COMPLETED"] = "COMPLETED"


class Listed(Struct, kw_only=True):
    """A list that is always whole."""

    object: Literal["list"] = "list"
    data: list[Any]


class DeletedFile(Struct, kw_only=True):
    id: str
    deleted: bool = True


def file_object(row: StoredFile) -> FileObject:
    suffix = row.name.lower().rpartition(".")[2]
    return FileObject(
        id=stored.PREFIX + row.id,
        bytes=row.bytes,
        created_at=int(row.created),
        filename=row.name,
        file_type=suffix if suffix in ("parquet", "csv") else "jsonl",
        purpose=_CALLED.get(row.purpose, row.purpose),
    )
