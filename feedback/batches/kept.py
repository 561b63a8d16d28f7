"""Batches as the record has them: made, listed, moved from status to status, and what came of their lines.

Every change of a status says which one it goes from, so that a cancellation is never written over. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import CursorResult, delete, insert, update
from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.files.stored import Viewer, bare_id, get_file
from feedback.ids import new_id
from feedback.storage.batch_table import BatchAnswer, RequestBatch
from feedback.storage.paging import id_after

PREFIX = "batch_"
WINDOW_SECONDS = 86_400.0
MOST_BYTES, MOST_LINES = 200 << 20, 50_000
"""Of an input file, as in OpenAI's API."""
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
ENDED = ("completed", "failed", "cancelled", "expired")


class NewBatch(Struct, frozen=True, kw_only=True):
    """What is asked for."""

    endpoint: str
    input_file_id: str
    metadata: dict[str, str] | None


class Answered(NamedTuple):
    """What came of a line."""

    line: int
    answered: bool
    content: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def begin_batch(
    session: Session, asked: NewBatch, viewer: Viewer, actor: Actor, now: datetime
) -> RequestBatch:
    """Note a batch, which begins when a gateway comes to it.

    Raises `NotFoundError` for a file that the caller does not see, `BadFieldError` for one that is no batch's.
    """
    file = get_file(session, asked.input_file_id, viewer)
    if file.purpose != "batch":
        raise BadFieldError(
            "input_file_id", f"was sent for {file.purpose!r}; send the file with the purpose 'batch'"
        )
    if file.bytes > MOST_BYTES:
        raise BadFieldError(
            "input_file_id", f"has {file.bytes} bytes; {MOST_BYTES} are the most, so split it"
        )
    row = RequestBatch(
        id=new_id(now),
        endpoint=asked.endpoint,
        input_file_id=file.id,
        metadata_=asked.metadata,
        created=now.timestamp(),
        expires=now.timestamp() + WINDOW_SECONDS,
        owner=actor.name,
        key_id=actor.key_id,
    )
    session.add(row)
    note(session, actor, "batch.create", row.id, now, endpoint=row.endpoint, file=file.id)
    return row


def get_batch(session: Session, batch_id: str, viewer: Viewer) -> RequestBatch:
    """A batch by the id that clients have. Raises `NotFoundError`, also for one of somebody else's."""
    row = session.get(RequestBatch, bare_id(batch_id, PREFIX, "batch"))
    if row is None or not viewer.sees(row):
        raise NotFoundError(f"there is no batch {batch_id[:60]!r}; GET /v1/batches lists those there are")
    return row


def list_batches(
    session: Session, viewer: Viewer, limit: int, after: str | None
) -> tuple[list[RequestBatch], bool]:
    """A page of batches, newest first, and whether there are more. Raises `BadFieldError` for an `after` that is no id."""
    query = select(RequestBatch).order_by(col(RequestBatch.id).desc())
    if not viewer.everything:
        query = query.where(RequestBatch.key_id == viewer.key_id)
    if after is not None:
        query = query.where(col(RequestBatch.id) < id_after(after, PREFIX, "a batch"))
    found = list(session.exec(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def cancel_batch(
    session: Session, batch_id: str, viewer: Viewer, actor: Actor, now: datetime
) -> RequestBatch:
    """Have a batch begin nothing more; what is under way ends. Raises `ConflictError` where it is over already."""
    row = get_batch(session, batch_id, viewer)
    if row.status == "cancelling":
        return row
    if not any(move(session, row, status, "cancelling", now) for status in ("validating", "in_progress")):
        session.refresh(row)
        raise ConflictError(f"the batch {batch_id[:60]!r} is {row.status}; nothing is left to cancel")
    note(session, actor, "batch.cancel", row.id, now)
    return row


def open_batches(session: Session) -> list[str]:
    """The ids of those that are not over, oldest first."""
    query = select(RequestBatch.id).where(col(RequestBatch.status).in_(OPEN))
    return list(session.exec(query.order_by(col(RequestBatch.id))))


def move(session: Session, row: RequestBatch, expected: str, to: str, now: datetime, **values: Any) -> bool:
    """Bring a batch from one status to another, with other values; False when it does not stand at the first."""
    done = session.connection().execute(
        update(RequestBatch)
        .where(col(RequestBatch.id) == row.id, col(RequestBatch.status) == expected)
        .values(status=to, times={**row.times, to: now.timestamp()}, **values)
    )
    assert isinstance(done, CursorResult)
    session.expire_all()
    return done.rowcount == 1


def add_answers(session: Session, batch_id: str, answers: Sequence[Answered]) -> None:
    """Keep what came of some lines, and count it."""
    rows = [
        {"batch_id": batch_id, "line": one.line, "answered": one.answered, "content": one.content}
        for one in answers
    ]
    session.connection().execute(insert(BatchAnswer), rows)
    well = sum(one.answered for one in answers)
    session.connection().execute(
        update(RequestBatch)
        .where(col(RequestBatch.id) == batch_id)
        .values(
            completed=col(RequestBatch.completed) + well,
            failed=col(RequestBatch.failed) + len(answers) - well,
            prompt_tokens=col(RequestBatch.prompt_tokens) + sum(one.prompt_tokens for one in answers),
            completion_tokens=col(RequestBatch.completion_tokens)
            + sum(one.completion_tokens for one in answers),
        )
    )


def answered_lines(session: Session, batch_id: str) -> set[int]:
    """The numbers of the lines of which something came."""
    return set(session.exec(select(BatchAnswer.line).where(BatchAnswer.batch_id == batch_id)))


def forget_answers(session: Session, batch_id: str) -> None:
    """They stand in files now."""
    session.connection().execute(delete(BatchAnswer).where(col(BatchAnswer.batch_id) == batch_id))
