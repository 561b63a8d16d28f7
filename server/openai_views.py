"""OpenAI's objects of files and uploads, as its clients read them. Times are whole Unix seconds, as there."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct

from feedback.batches import kept
from feedback.files import parts, stored
from feedback.storage.batch_table import RequestBatch
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


def object_page(data: list[T], more: bool, id_of: Callable[[T], str] = attrgetter("id")) -> ObjectPage[T]:
    """The items of a page as OpenAI's lists have them; `more` is whether there are some after it."""
    first, last = (id_of(data[0]), id_of(data[-1])) if data else (None, None)
    return ObjectPage(data=data, first_id=first, last_id=last, has_more=more)


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
    ignored: tuple[str, ...] = ("mime_type",)
    """What clients must send for it and has no effect."""


class PartObject(Struct, kw_only=True):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class BatchCounts(Struct, kw_only=True):
    total: int
    completed: int
    failed: int


class BatchErrors(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class BatchObject(Struct, kw_only=True):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: dict[str, Any]
    metadata: dict[str, Any] | None


def batch_object(row: RequestBatch) -> BatchObject:
    def at(status: str) -> int | None:
        return int(row.times[status]) if status in row.times else None

    def file(identifier: str | None) -> str | None:
        return None if identifier is None else stored.PREFIX + identifier

    return BatchObject(
        id=kept.PREFIX + row.id,
        endpoint=row.endpoint,
        errors=BatchErrors(data=row.errors) if row.errors else None,
        input_file_id=stored.PREFIX + row.input_file_id,
        status=row.status,
        output_file_id=file(row.output_file_id),
        error_file_id=file(row.error_file_id),
        created_at=int(row.created),
        in_progress_at=at("in_progress"),
        expires_at=int(row.expires),
        finalizing_at=at("finalizing"),
        completed_at=at("completed"),
        failed_at=at("failed"),
        expired_at=at("expired"),
        cancelling_at=at("cancelling"),
        cancelled_at=at("cancelled"),
        request_counts=BatchCounts(total=row.total, completed=row.completed, failed=row.failed),
        usage={
            "input_tokens": row.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": row.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": row.prompt_tokens + row.completion_tokens,
        },
        metadata=row.metadata_,
    )


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
