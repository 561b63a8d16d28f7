"""Proves that journal and database agree: nothing missing, nothing twice, nothing changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import JSON, Table, Text, cast, func, select, text
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session, col
from sqlmodel import select as rows_of

from feedback.errors import StorageError
from feedback.privacy.tombstones import Mason, find_mason
from feedback.storage.adoption import adopt
from feedback.storage.arrival_tables import RecordCount
from feedback.storage.aside import count_aside
from feedback.storage.database import Database
from feedback.storage.hashing import content_hash
from feedback.storage.removal_tables import Tombstone
from feedback.storage.undrained import await_drainers
from feedback.storage.upsert import RECORD_TABLES

_BATCH = 1000
NAMED = 100
"""Most problems that are told one by one."""


class Verification(Struct, frozen=True):
    """What was counted; all is well when the last three are 0."""

    inferences: int
    feedback: int
    missing: int
    """Acknowledged once, not in the database now, and not erased either: nothing signed says so."""
    duplicated: int
    """Ids that stand twice, rows that stand although they were erased, and raters with two current feedbacks on one
    inference."""
    corrupt: int
    """Rows, in the database or a journal, that are not what was written."""
    erased: int = 0
    """Inferences and feedbacks that went on purpose, each with its signed tombstone."""
    problems: list[str] = []
    """Which rows and files are not what was written, in a sentence each, the first hundred."""

    @property
    def sound(self) -> bool:
        return not (self.missing or self.duplicated or self.corrupt)


def verify(database: Database, directory: Path, patience: float = 5.0) -> Verification:
    """Recompute every hash and compare what the journals hold with what the database holds.

    Journals that no process owns are brought to the database first, as any start would. Those of a running server are
    waited for as long as they are being drained; what is not in the database when that has stood still for `patience`
    seconds counts as missing.
    """
    for _ in adopt(database, directory):
        pass
    try:
        missing, corrupt = await_drainers(database, directory, patience), 0
    except StorageError as error:
        if "malformed" not in str(error):
            raise
        missing, corrupt = 0, 1  # the page that is damaged is one of an index
    missing += count_aside(directory, "refused")
    corrupt += count_aside(directory, "damaged")
    with database.reading() as session, lenient_text(session):
        counts = [0, 0]
        duplicated = 0
        problems: list[str] = []
        try:
            corrupt += _integrity_problems(session)
            for place, (table, _) in enumerate(RECORD_TABLES):
                ids = select(func.count(), func.count(table.c.id.distinct())).select_from(table)
                counts[place], different = session.connection().execute(ids).one()
                duplicated += counts[place] - different
                changed = _changed_rows(session, table)
                corrupt += len(changed)
                problems += [
                    f"{table.name} {one}: its hash is not that of its content" for one in changed[:NAMED]
                ]
            twice, stale = _current_feedback(session)
            gone, untrue = _tombstones(session, find_mason(directory))
            duplicated += _undead(session)
            stored = _ever_stored(session)
        except DatabaseError as error:
            if "malformed" not in str(error.orig):
                raise
            return Verification(counts[0], counts[1], missing, duplicated, max(corrupt, 1), 0, problems)
    missing += sum(max(0, ever - now - went) for ever, now, went in zip(stored, counts, gone, strict=True))
    return Verification(
        counts[0],
        counts[1],
        missing,
        duplicated + twice,
        corrupt + stale + untrue,
        sum(gone),
        problems[:NAMED],
    )


def _changed_rows(session: Session, table: Table) -> list[str]:
    """Ids of rows whose hash is not that of their content."""
    columns = [cast(c, Text).label(c.name) if isinstance(c.type, JSON) else c for c in table.c]
    # One scan without an order: pages by id would depend on ids that may be damaged themselves.
    rows = session.connection().execute(select(*columns), execution_options={"yield_per": _BATCH}).mappings()
    return [str(row["id"]) for row in rows if not _is_as_written(table, dict(row))]


def _is_as_written(table: Table, row: dict[str, Any]) -> bool:
    written = row.pop("content_hash")
    row.pop("current", None)
    kind = next(record for one, record in RECORD_TABLES if one is table)
    try:
        for column in table.c:
            if isinstance(column.type, JSON) and row[column.name] is not None:
                row[column.name] = json.loads(row[column.name])
        return content_hash(kind(**row)) == str(written)
    except (ValueError, TypeError):  # no JSON, or no text any more
        return False


def _current_feedback(session: Session) -> tuple[int, int]:
    """Of how many (inference, rater) pairs two feedbacks are current, and of how many the newest is not."""
    table = RECORD_TABLES[1][0]
    held = func.count().filter(table.c.current)
    newest = func.max(table.c.id)
    rows = session.connection().execute(
        select(held, newest, func.max(table.c.id).filter(table.c.current))
        .group_by(table.c.inference_id, table.c.rater)
        .having((held != 1) | (newest != func.max(table.c.id).filter(table.c.current)))
    )
    twice = stale = 0
    for count, _, _ in rows:
        if count > 1:
            twice += 1
        else:
            stale += 1
    return twice, stale


def _tombstones(session: Session, mason: Mason | None) -> tuple[tuple[int, int], int]:
    """How many inferences and feedbacks went with a true tombstone, and how many tombstones are not true."""
    true: Counter[str] = Counter()
    untrue = 0
    for stone in session.exec(rows_of(Tombstone), execution_options={"yield_per": _BATCH}):
        if mason is not None and mason.is_true(stone):
            true[stone.kind] += 1
        else:
            untrue += 1
    return (true["inference"], true["feedback"]), untrue


def _undead(session: Session) -> int:
    """Rows that stand although they have a tombstone."""
    return sum(
        session.connection().execute(select(func.count()).where(table.c.id == col(Tombstone.id))).scalar_one()
        for table, _ in RECORD_TABLES
    )


def _ever_stored(session: Session) -> tuple[int, int]:
    """How many inferences and feedbacks were ever brought here; rows cannot go without being counted as missing."""
    inferences, feedback = (
        session.connection()
        .execute(
            select(
                func.coalesce(func.sum(col(RecordCount.inferences)), 0),
                func.coalesce(func.sum(col(RecordCount.feedback)), 0),
            )
        )
        .one()
    )
    return int(inferences), int(feedback)


def _integrity_problems(session: Session) -> int:
    """What SQLite finds wrong with its own file; PostgreSQL keeps checksums of its own."""
    if session.get_bind().dialect.name != "sqlite":
        return 0
    found = session.connection().execute(text("PRAGMA integrity_check(100)")).scalars().all()
    return 0 if found == ["ok"] else len(found)


@contextmanager
def lenient_text(session: Session) -> Iterator[None]:
    """Read text that is no longer UTF-8 with replacement marks, so that a damaged row is counted, not stumbled on."""
    if session.get_bind().dialect.name != "sqlite":
        yield
        return
    driver: Any = session.connection().connection.driver_connection
    driver.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        yield
    finally:
        driver.text_factory = str
