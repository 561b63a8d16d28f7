"""Files that clients keep here: taken in whole, listed, read and deleted, each seen by the key that sent it alone.

    files/<id>                the bytes as they were sent
          .<id>.partial/      one on its way
          .<id>.parts/        parts of one that is sent in parts (`parts`)

What counts is the row in the table `stored_file`, which comes last: whatever a crash leaves behind is read by nobody.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from feedback.access.audit import Actor, note
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id, parse_id
from feedback.imports.storing import shown_name
from feedback.imports.uploads import Upload
from feedback.storage.database import Database
from feedback.storage.file_table import StoredFile
from feedback.storage.paging import id_after

FOLDER = "files"
PREFIX = "file-"
Purpose = Literal["fine-tune", "batch", "evals", "user_data"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
LINED = frozenset({"fine-tune", "batch", "evals"})
"""Purposes whose files hold a JSON object in each line."""
Order = Literal["asc", "desc"]


class Owned(Protocol):
    """A row that was made with a key, or from this machine without one."""

    key_id: str | None


class Viewer(NamedTuple):
    """Who asks for files and for what is made of them: with which key, and whether they may see everybody's."""

    key_id: str | None
    everything: bool = False

    def sees(self, row: Owned) -> bool:
        return self.everything or row.key_id == self.key_id


class Listing(NamedTuple):
    """Which files, and where the page begins and ends."""

    purpose: str | None = None
    order: Order = "desc"
    limit: int = 10_000
    after: str | None = None


def checked_purpose(purpose: str) -> str:
    """A purpose that a client may send a file for. Raises `BadFieldError`."""
    if purpose not in PURPOSES:
        raise BadFieldError("purpose", f"{purpose[:60]!r} is none of {', '.join(PURPOSES)}")
    return purpose


def bare_id(text: str, prefix: str, what: str) -> str:
    """The record's id out of a client's. Raises `NotFoundError` for what can be none, as OpenAI's API does."""
    try:
        return parse_id(text.removeprefix(prefix))
    except BadFieldError:
        raise NotFoundError(f"there is no {what} {text[:60]!r}") from None


def path_of(directory: Path, file_id: str) -> Path:
    """Where a file's bytes are, by the record's id."""
    return directory / FOLDER / file_id


def keep_file(
    session: Session,
    directory: Path,
    upload: Upload,
    name: str,
    purpose: str,
    actor: Actor,
    now: datetime,
    identifier: str | None = None,
) -> StoredFile:
    """Give an upload that ended an id, unless it has one, and its place; the caller commits, or calls `drop_bytes` where it cannot.

    Raises `ConflictError` where there is a file of that id.
    """
    if identifier is not None and session.get(StoredFile, identifier) is not None:
        raise ConflictError(f"the file {PREFIX}{identifier} has come already; announce another")
    row = StoredFile(
        id=identifier or new_id(now),
        name=shown_name(Path(name)),
        purpose=purpose,
        bytes=upload.size,
        hash=upload.hash,
        created=now.timestamp(),
        owner=actor.name,
        key_id=actor.key_id,
    )
    session.add(row)
    note(session, actor, "file.upload", row.id, now, purpose=purpose, bytes=row.bytes, hash=row.hash)
    session.flush()  # whatever the database refuses is refused before the bytes move
    upload.keep(path_of(directory, row.id))
    return row


def add_file(
    database: Database,
    directory: Path,
    upload: Upload,
    name: str,
    purpose: str,
    actor: Actor,
    now: datetime,
    identifier: str | None = None,
) -> StoredFile:
    """Keep an upload that ended. Raises `StorageError` and what `keep_file` does; nothing is left behind then."""
    kept: StoredFile | None = None
    try:
        with database.session() as session:
            kept = keep_file(session, directory, upload, name, purpose, actor, now, identifier)
            session.commit()
    except BaseException:
        if kept is not None:
            drop_bytes(directory, kept.id)
        raise
    return kept


def get_file(session: Session, file_id: str, viewer: Viewer) -> StoredFile:
    """A file by the id that clients have. Raises `NotFoundError`, also for one of somebody else's."""
    row = session.get(StoredFile, bare_id(file_id, PREFIX, "file"))
    if row is None or not viewer.sees(row):
        raise NotFoundError(f"there is no file {file_id[:60]!r}; GET /v1/files lists those there are")
    return row


def list_files(session: Session, viewer: Viewer, wanted: Listing) -> tuple[list[StoredFile], bool]:
    """A page of files, and whether there are more. Raises `BadFieldError` for an `after` that is no file's id."""
    query = select(StoredFile)
    if not viewer.everything:
        query = query.where(StoredFile.key_id == viewer.key_id)
    if wanted.purpose is not None:
        query = query.where(StoredFile.purpose == wanted.purpose)
    if wanted.after is not None:
        last = id_after(wanted.after, PREFIX, "a file")
        query = query.where(
            col(StoredFile.id) < last if wanted.order == "desc" else col(StoredFile.id) > last
        )
    return _page(session, query, wanted)


def _page(
    session: Session, query: SelectOfScalar[StoredFile], wanted: Listing
) -> tuple[list[StoredFile], bool]:
    column = col(StoredFile.id)
    ordered = query.order_by(column.desc() if wanted.order == "desc" else column)
    found = list(session.exec(ordered.limit(wanted.limit + 1)))
    return found[: wanted.limit], len(found) > wanted.limit


def delete_file(
    database: Database, directory: Path, file_id: str, viewer: Viewer, actor: Actor, now: datetime
) -> str:
    """Delete a file for good; the record's id. What was trained on it has rows of its own and stays."""
    with database.session() as session:
        row = get_file(session, file_id, viewer)
        session.delete(row)
        note(session, actor, "file.delete", row.id, now, purpose=row.purpose, hash=row.hash)
        session.commit()
    drop_bytes(directory, row.id)
    return row.id


def drop_bytes(directory: Path, file_id: str) -> None:
    """Remove a file's bytes; a second time does nothing."""
    with suppress(FileNotFoundError):
        path_of(directory, file_id).unlink()
