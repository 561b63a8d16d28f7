"""Makes sure that what was deleted is gone from the files too: free pages, write-ahead logs, what was set aside.

A deleted row stays in an SQLite file until its page is used again, and in the write-ahead log until that is overwritten.
The file is therefore written anew without its free pages, and its log cut to nothing, also while a gateway has it open:
SQLite's own locks let both do so in turn. A journal's files go whole: their owner, asked to, begins a new one at once.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from feedback.errors import StorageError, UnavailableError
from feedback.storage.aside import KINDS
from feedback.storage.database import Database
from feedback.storage.journal_file import FOLDER, journals, segments, stands
from feedback.storage.marks import read_marks, want_gone
from feedback.storage.records import FeedbackRecord, decode

_TABLES = (
    "inference",
    "feedback",
    "failure",
    "evaluation_case",
    "evaluation_result",
    "contender_answer",
    "prompt_group",
    "conversation",
    "completion_metadata",
    "example",
    "dataset_version",
    "kept_figures",
    "erasure",
)
_PAUSE = 0.1
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


def scrub_database(database: Database, patience: float, rewrite: bool = True) -> None:
    """Leave nothing of deleted rows in the database's files.

    SQLite: the file is written anew and its log cut; writers wait meanwhile, and what gateways capture stands in their
    journals. PostgreSQL: `VACUUM FULL` writes each table and its indexes anew; its own write-ahead log, replicas and backups
    keep what they have until they are recycled. With `rewrite` off only the log is cut.
    Raises `UnavailableError` when a long reader does not let go within `patience` seconds.
    """
    if database.dialect == "postgresql":
        if rewrite:
            _vacuum_postgresql(database)
        return
    file = database.engine.url.database
    assert file is not None
    _scrub_file(Path(file), patience, rewrite)


def scrub_journals(directory: Path, patience: float) -> int:
    """Have the owners let go of all files that hold what stands in the journals now, drained or not; how many journals.

    Raises `UnavailableError` when one is not drained within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    there = journals(directory)
    asked: list[tuple[Path, int]] = []
    for journal in there:
        last = read_marks(journal).standing or 0
        try:
            want_gone(journal, last)
            asked.append((journal, last))
        except OSError as error:
            if stands(journal):  # else its owner ended and removed it
                raise StorageError(f"{journal}: the journal cannot be written ({error})") from error
    for journal, last in asked:
        while any(segment.first <= last for segment in segments(journal)):
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{journal}: the gateway that owns this journal has not brought all of it to the database; "
                    "wait until `starloop db verify` says that nothing is missing, and run this again"
                )
            time.sleep(_PAUSE)
    return len(there)


def remove_aside(directory: Path, user: str, erased: Collection[str]) -> int:
    """Delete the kept rows of journals that belong to the user or to what was erased; how many files.

    What cannot be read any more is searched for the user's name and the ids.
    """
    named = [msgspec.json.encode({key: user})[1:-1] for key in ("user", "rater")]
    gone = 0
    for path in sorted((directory / FOLDER).glob("*")):
        if path.suffix.removeprefix(".") not in (*KINDS, "draft"):
            continue
        body = path.read_bytes()
        if _belongs(body, user, erased, named):
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def _belongs(body: bytes, user: str, erased: Collection[str], named: list[bytes]) -> bool:
    try:
        record = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return any(name in body for name in named) or any(
            match[0].decode() in erased for match in _UUID.finditer(body)
        )
    if isinstance(record, FeedbackRecord):
        return record.rater == user or record.inference_id in erased
    return record.user == user


def _scrub_file(path: Path, patience: float, rewrite: bool) -> None:
    """`VACUUM`, then cut the log to nothing; tried again while others read or write."""
    deadline = time.monotonic() + patience
    with closing(_open(path)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        while rewrite:
            with suppress(sqlite3.OperationalError):
                connection.execute("VACUUM")
                break
            _wait(path, deadline)
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] != 0:
            _wait(path, deadline)


def _wait(path: Path, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise UnavailableError(
            f"{path}: somebody has been reading or writing it all the time, so deleted rows may still stand in its log; "
            "run this again when it is quieter"
        )
    time.sleep(_PAUSE)


def _open(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)


def _vacuum_postgresql(database: Database) -> None:
    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for table in _TABLES:
            connection.execute(text(f'VACUUM (FULL, ANALYZE) "{table}"'))
        with suppress(
            DBAPIError
        ):  # a right that not every user has; without it the server does so within minutes
            connection.execute(text("CHECKPOINT"))
