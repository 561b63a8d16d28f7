"""Files that are sent in parts: begun, sent part by part, put together in the order that the client names, or given up.

Whoever gives up without a word is forgotten an hour after beginning; the parts go with the next file that is sent.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from msgspec import Struct
from sqlalchemy import func
from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.errors import BadFieldError, ConflictError, NotFoundError, TooLargeError
from feedback.files.lines import check_lines
from feedback.files.stored import FOLDER, LINED, Viewer, bare_id, checked_purpose, drop_bytes, keep_file
from feedback.ids import new_id
from feedback.imports.storing import shown_name
from feedback.imports.uploads import Upload
from feedback.storage.database import Database
from feedback.storage.file_table import PartedUpload, StoredFile, UploadPart

PREFIX, PART_PREFIX = "upload_", "part_"
PART_LIMIT = 64 << 20
"""Most bytes of a part, as in OpenAI's API."""
SECONDS = 3600.0
_PIECE = 1 << 20


class NewUpload(Struct, kw_only=True, frozen=True):
    """What is to be sent."""

    name: str
    purpose: str
    bytes: int


def begin_upload(
    database: Database, directory: Path, asked: NewUpload, limit: int, actor: Actor, now: datetime
) -> PartedUpload:
    """Begin a file in parts. Raises `BadFieldError` for a purpose there is not, `TooLargeError` above `limit` bytes."""
    if asked.bytes > limit:
        raise TooLargeError(
            f"the file is to have {asked.bytes} bytes, and {limit} is the most; raise [server] upload_limit"
        )
    row = PartedUpload(
        id=new_id(now),
        name=shown_name(Path(asked.name)),
        purpose=checked_purpose(asked.purpose),
        bytes=asked.bytes,
        created=now.timestamp(),
        expires=now.timestamp() + SECONDS,
        owner=actor.name,
        key_id=actor.key_id,
    )
    with database.session() as session:
        session.add(row)
        note(session, actor, "upload.begin", row.id, now, purpose=row.purpose, bytes=row.bytes)
        session.commit()
    return row


def get_upload(session: Session, upload_id: str, viewer: Viewer) -> PartedUpload:
    """An upload by the id that clients have. Raises `NotFoundError`, also for one of somebody else's."""
    row = session.get(PartedUpload, bare_id(upload_id, PREFIX, "upload"))
    if row is None or not viewer.sees(row):
        raise NotFoundError(f"there is no upload {upload_id[:60]!r}; POST /v1/uploads begins one")
    return row


def pending_upload(session: Session, upload_id: str, viewer: Viewer, now: datetime) -> PartedUpload:
    """One that still takes parts. Raises `ConflictError` for one that is over, and what `get_upload` raises."""
    row = get_upload(session, upload_id, viewer)
    if row.state == "pending" and row.expires > now.timestamp():
        return row
    state = "expired" if row.state == "pending" else row.state
    raise ConflictError(f"the upload {upload_id[:60]!r} is {state}; begin another with POST /v1/uploads")


def add_part(
    database: Database,
    directory: Path,
    upload_id: str,
    part: Upload,
    viewer: Viewer,
    actor: Actor,
    now: datetime,
) -> UploadPart:
    """Keep a part that has come. Raises `TooLargeError` where the parts are more than was announced."""
    with database.session() as session:
        row = pending_upload(session, upload_id, viewer, now)
        query = select(func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == row.id)
        if int(session.exec(query).one()) + part.size > row.bytes:
            raise TooLargeError(
                f"the parts are larger than the {row.bytes} bytes that were announced; begin another upload"
            )
        kept = UploadPart(id=new_id(now), upload_id=row.id, bytes=part.size)
        session.add(kept)
        note(session, actor, "upload.part", row.id, now, part=kept.id, bytes=kept.bytes)
        session.flush()
        folder = _folder(directory, row.id)
        folder.mkdir(mode=0o700, exist_ok=True)
        part.keep(folder / kept.id)
        session.commit()
    return kept


def complete_upload(
    database: Database,
    directory: Path,
    upload_id: str,
    part_ids: Sequence[str],
    md5: str | None,
    viewer: Viewer,
    actor: Actor,
    now: datetime,
) -> tuple[PartedUpload, StoredFile]:
    """Put the named parts together, in this order, and keep them as a file.

    Raises `BadFieldError` for parts that are not this upload's, for a size or `md5` (hex) that does not agree, and for
    lines that are none; `ConflictError` where the upload is over. The upload stays pending then.
    """
    with database.reading() as session:
        row = pending_upload(session, upload_id, viewer, now)
        parts = _ordered(session, row, part_ids)
    with Upload(directory, row.bytes, now, FOLDER) as whole:
        digest = hashlib.md5(usedforsecurity=False)
        for part in parts:
            with _part(directory, row, part).open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    whole.write(piece)
        whole.end()
        if whole.size != row.bytes:
            raise BadFieldError(
                "part_ids", f"come to {whole.size} bytes, and {row.bytes} were announced; name every part"
            )
        if md5 is not None and digest.hexdigest() != md5.lower():
            raise BadFieldError(
                "md5", f"does not agree: the parts have {digest.hexdigest()}; send them again"
            )
        if row.purpose in LINED:
            check_lines(whole.path, row.name)
        kept: StoredFile | None = None
        try:
            with database.session() as session:
                row = pending_upload(session, upload_id, viewer, now)  # nobody else was quicker
                kept = keep_file(session, directory, whole, row.name, row.purpose, actor, now)
                row.state, row.file_id = "completed", kept.id
                _forget_parts(session, row)
                session.commit()
        except BaseException:
            if kept is not None:
                drop_bytes(directory, kept.id)
            raise
    shutil.rmtree(_folder(directory, row.id), ignore_errors=True)
    return row, kept


def cancel_upload(
    database: Database, directory: Path, upload_id: str, viewer: Viewer, actor: Actor, now: datetime
) -> PartedUpload:
    """Give an upload up; its parts are deleted. Raises `ConflictError` where it is over."""
    with database.session() as session:
        row = pending_upload(session, upload_id, viewer, now)
        row.state = "cancelled"
        _forget_parts(session, row)
        note(session, actor, "upload.cancel", row.id, now)
        session.commit()
    shutil.rmtree(_folder(directory, row.id), ignore_errors=True)
    return row


def sweep_uploads(database: Database, directory: Path, now: datetime) -> None:
    """Forget uploads whose hour is over, with their parts."""
    late = select(PartedUpload).where(
        col(PartedUpload.expires) <= now.timestamp(), PartedUpload.state == "pending"
    )
    with database.reading() as session:
        if session.exec(late.limit(1)).first() is None:
            return
    with database.session() as session:
        over = list(session.exec(late))
        for row in over:
            row.state = "expired"
            _forget_parts(session, row)
        session.commit()
    for row in over:
        shutil.rmtree(_folder(directory, row.id), ignore_errors=True)


def _ordered(session: Session, row: PartedUpload, part_ids: Sequence[str]) -> list[str]:
    """The record's ids of an upload's parts as the client names them."""
    there = set(session.exec(select(UploadPart.id).where(UploadPart.upload_id == row.id)))
    wanted = [part.removeprefix(PART_PREFIX) for part in part_ids]
    for place, part in enumerate(wanted):
        if part not in there or part in wanted[:place]:
            problem = "stands twice" if part in wanted[:place] else "is no part of this upload"
            raise BadFieldError(f"part_ids[{place}]", f"{part_ids[place][:60]!r} {problem}")
    return wanted


def _part(directory: Path, row: PartedUpload, part: str) -> Path:
    path = _folder(directory, row.id) / part
    if not path.is_file():  # a backup has no parts
        raise ConflictError(f"the part {PART_PREFIX}{part} is no longer here; begin another upload")
    return path


def _folder(directory: Path, upload_id: str) -> Path:
    return directory / FOLDER / f".{upload_id}.parts"


def _forget_parts(session: Session, row: PartedUpload) -> None:
    for part in session.exec(select(UploadPart).where(UploadPart.upload_id == row.id)):
        session.delete(part)
