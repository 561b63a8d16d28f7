"""Together's objects, as its client reads them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from feedback.files import stored
from feedback.storage.file_table import StoredFile
from server.routing import BASE
from server.views import ModelCard

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


class ModelObject(Struct, kw_only=True, rename="camel"):
    """A registered model or a version. There are no projects, so each is in the one that was asked for."""

    id: str
    name: str
    object: Literal["model"] = "model"
    created: int
    organization_id: str = "starloop"
    project_id: str
    visibility: Literal["VISIBILITY_INTERNAL"] = "VISIBILITY_INTERNAL"
    weights: dict[str, str]
    base_model_id: str
    description: str


class ModelPage(Struct, kw_only=True):
    data: list[ModelObject]
    next_cursor: str | None


def model_object(card: ModelCard, project: str) -> ModelObject:
    kind = "WEIGHTS_TYPE_DEFAULT" if card.version == BASE else "WEIGHTS_TYPE_ADAPTER"
    return ModelObject(
        id=card.id,
        name=card.id,
        created=card.created,
        project_id=project,
        weights={"type": kind},
        base_model_id=card.base,
        description=f"answers as version {card.version}",
    )


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
