"""Kept files and a user who is erased: lines that name the user go, and with them what was answered to them.

A line names a user as requests do: in `user` or `metadata.user_id`, its own or its `body`'s. What a batch answered is known by the
request's `custom_id` in the batch's input, and by the inference's id. Files of the purpose `user_data` have no lines.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Raw, Struct
from sqlmodel import Session, col, select

from feedback.batches.kept import OPEN
from feedback.batches.kept import PREFIX as BATCH
from feedback.batches.output import PURPOSE as ANSWERS
from feedback.errors import BadInputError, ConflictError, StorageError
from feedback.files.stored import FOLDER, LINED, path_of
from feedback.imports.reading import unpacked
from feedback.storage.batch_table import BatchAnswer, RequestBatch
from feedback.storage.database import Database
from feedback.storage.file_table import StoredFile
from feedback.storage.tables import Inference

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_LONGEST = 1 << 30
_READ = 200


class _Part(Struct):
    user: Any = None
    metadata: Any = None


class _Line(_Part):
    custom_id: Any = None
    body: Raw = Raw()
    response: Raw = Raw()


class _Response(Struct):
    request_id: Any = None


_line = msgspec.json.Decoder(_Line)
_body = msgspec.json.Decoder(_Part)
_response = msgspec.json.Decoder(_Response)


def refuse_open_batches(database: Database, directory: Path, user: str) -> None:
    """Raise `ConflictError` while a batch is under way that holds requests of the user, or answers to them.

    They would go on being asked, and answered into a file, while the user's data goes.
    """
    with database.reading() as session:
        rows = session.exec(select(RequestBatch).where(col(RequestBatch.status).in_(OPEN))).all()
        if not rows:
            return
        query = select(Inference.id).where(Inference.user == user, Inference.purpose == "batch")
        asked = set(session.exec(query))
        for row in rows:
            if _asks(directory, row, user) or _answered(session, row, asked):
                raise ConflictError(
                    f"{BATCH}{row.id} is under way and holds requests of this user; cancel it (POST /v1/batches/{BATCH}{row.id}"
                    "/cancel) or wait for its end, and erase then"
                )


def erase_lines(database: Database, directory: Path, user: str, gone: Collection[str]) -> int:
    """Take the user's lines out of all kept files; how many. `gone` are the ids of inferences that were erased.

    Answers first and requests last: whoever is killed in between finds by the requests which answers are left.
    Raises `StorageError` where a file cannot be written.
    """
    with database.reading() as session:
        files = session.exec(select(StoredFile).order_by(col(StoredFile.id))).all()
        batches = session.exec(select(RequestBatch)).all()
    named: dict[str, set[str]] = defaultdict(set)
    for row in batches:
        mine = {
            str(line.custom_id)
            for line in _lines(path_of(directory, row.input_file_id))
            if _names(line, user) and line.custom_id is not None
        }
        for file_id in (row.output_file_id, row.error_file_id):
            if file_id is not None and mine:
                named[file_id] |= mine
    count = 0
    for file in sorted(files, key=lambda one: one.purpose != ANSWERS):
        if file.purpose in LINED or file.purpose == ANSWERS:
            count += _rewrite(database, directory, file, user, gone, named.get(file.id, set()))
    return count


def _asks(directory: Path, row: RequestBatch, user: str) -> bool:
    return any(_names(line, user) for line in _lines(path_of(directory, row.input_file_id)))


def _answered(session: Session, row: RequestBatch, asked: Collection[str]) -> bool:
    query = select(BatchAnswer.content).where(BatchAnswer.batch_id == row.id)
    return any(
        (line := _read(content.encode())) is not None and _request(line) in asked
        for content in session.exec(query, execution_options={"yield_per": _READ})
    )


def _lines(path: Path) -> Iterator[_Line]:
    """Its lines as far as they can be read; none of a file that is gone."""
    if not path.is_file():
        return
    with suppress(BadInputError), unpacked(path, path.name) as stream:
        while content := stream.readline(_LONGEST):
            if (line := _read(content)) is not None:
                yield line


def _read(content: bytes) -> _Line | None:
    try:
        return _line.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _names(line: _Line, user: str) -> bool:
    parts: list[_Part] = [line]
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        parts.append(_body.decode(line.body))
    return any(
        part.user == user or (isinstance(part.metadata, dict) and part.metadata.get("user_id") == user)
        for part in parts
    )


def _request(line: _Line) -> Any:
    """The id of the inference that answered it."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return _response.decode(line.response).request_id
    return None


def _rewrite(
    database: Database,
    directory: Path,
    file: StoredFile,
    user: str,
    gone: Collection[str],
    custom_ids: Collection[str],
) -> int:
    """Write a file anew without the user's lines; how many those are. The row goes first: a second time comes to the same."""

    def mine(content: bytes) -> bool:
        line = _read(content)
        if line is None:
            return False
        answered = file.purpose == ANSWERS and (line.custom_id in custom_ids or _request(line) in gone)
        return answered or _names(line, user)

    path = path_of(directory, file.id)
    draft = directory / FOLDER / f".{file.id}.erasing"
    count = 0
    try:
        with suppress(BadInputError), unpacked(path, file.name) as stream:
            while content := stream.readline(_LONGEST):
                count += mine(content)
        if not count:
            return 0
        with unpacked(path, file.name) as stream, _packed(draft, path) as written:
            while content := stream.readline(_LONGEST):
                if not mine(content):
                    written.write(content)
        with draft.open("rb") as whole:
            os.fsync(whole.fileno())
            digest = hashlib.file_digest(whole, "sha256").hexdigest()
        with database.session() as session:
            row = session.get(StoredFile, file.id)
            if row is None:  # it was deleted meanwhile
                return 0
            row.bytes, row.hash = draft.stat().st_size, digest
            session.add(row)
            session.commit()
        draft.rename(path)
        return count
    except (OSError, BadInputError) as error:  # `unpacked` tells both as the second
        raise StorageError(f"{path}: cannot be written anew ({error})") from error
    finally:
        draft.unlink(missing_ok=True)


def _packed(draft: Path, like: Path) -> IO[bytes]:
    """A file to write, packed as another one is."""
    with like.open("rb") as there:
        start = there.read(4)
    if start.startswith(_GZIP):
        return gzip.GzipFile(draft, "wb", mtime=0)  # type: ignore[return-value]
    if start.startswith(_ZSTD):
        return zstd.ZstdFile(draft, "wb")  # type: ignore[return-value]
    return draft.open("wb")
