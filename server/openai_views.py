"""OpenAI's objects of files and uploads, as its clients read them. Times are whole Unix seconds, as there."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from msgspec import Struct

from feedback.files import parts, stored
from feedback.storage.file_table import PartedUpload, StoredFile, UploadPart

T = TypeVar("T")


class FileObject(Struct, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class Deleted(Struct, kw_only=True):
    id: str
    object: str
    deleted: bool = True


class ObjectPage(Struct, Generic[T], kw_only=True):
    """A page of a list; the next one is asked for with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class UploadObject(Struct, kw_only=True):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None = None


class PartObject(Struct, kw_only=True):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def file_object(row: StoredFile) -> FileObject:
    return FileObject(
        id=stored.PREFIX + row.id,
        bytes=row.bytes,
        created_at=int(row.created),
        filename=row.name,
        purpose=row.purpose,
    )


def upload_object(row: PartedUpload, file: StoredFile | None = None) -> UploadObject:
    return UploadObject(
        id=parts.PREFIX + row.id,
        bytes=row.bytes,
        created_at=int(row.created),
        expires_at=int(row.expires),
        filename=row.name,
        purpose=row.purpose,
        status=row.state,
        file=None if file is None else file_object(file),
    )


def part_object(row: UploadPart, created: float) -> PartObject:
    return PartObject(
        id=parts.PART_PREFIX + row.id, created_at=int(created), upload_id=parts.PREFIX + row.upload_id
    )
