"""Bringing records into the database: idempotent, in batches, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, cast

import msgspec
from sqlalchemy import JSON, CursorResult, Dialect, Executable, Table, bindparam, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from feedback.privacy.tombstones import erased_among
from feedback.storage.arrival_tables import RecordCount
from feedback.storage.arrivals import note_arrival
from feedback.storage.conversations import note_conversations
from feedback.storage.hashing import content_hash
from feedback.storage.records import FeedbackRecord, InferenceRecord, Record
from feedback.storage.tables import Feedback, Inference

SHARDS = 16
_FEEDBACK_LOCK = 0x5742_0001

_inference = cast(Table, Inference.__table__)  # type: ignore[attr-defined]
_feedback = cast(Table, Feedback.__table__)  # type: ignore[attr-defined]
RECORD_TABLES: tuple[tuple[Table, type[InferenceRecord] | type[FeedbackRecord]], ...] = (
    (_inference, InferenceRecord),
    (_feedback, FeedbackRecord),
)
_json = msgspec.json.Encoder()
_count = cast(Table, RecordCount.__table__)  # type: ignore[attr-defined]


def store(session: Session, records: Sequence[Record], shard: int) -> int:
    """Insert what is not there yet, in the session's transaction; how many rows were new.

    A record that is there already changes nothing, whatever it holds: rows are immutable. Of the feedback of one
    rater on one inference the newest id is `current`, in whatever order they come. What was erased does not come back,
    and what is said about an erased inference goes with it.
    """
    take_turns(session, any(isinstance(record, FeedbackRecord) for record in records))
    records = _living(session, records)
    inferences = [record for record in records if isinstance(record, InferenceRecord)]
    feedback = [record for record in records if isinstance(record, FeedbackRecord)]
    new_inferences = _insert(session, _inference, [inference_row(record) for record in inferences])
    if new_inferences:
        note_conversations(session, inferences, time.time())
        _name_waiting(session, inferences)
    new_feedback = 0
    if feedback:
        users = _users(session, {record.inference_id for record in feedback if record.assumed})
        rows = [feedback_row(_named(record, users)) for record in feedback]
        new_feedback = _insert(session, _feedback, rows)
        if new_feedback:
            _mark_current(session, {record.inference_id for record in feedback})
    if new_inferences or new_feedback:
        note_arrival(session, inferences, feedback, time.time())
        _add_to_count(session, shard, new_inferences, new_feedback)
    return new_inferences + new_feedback


def subjects(record: Record) -> tuple[str, ...]:
    """The ids whose erasure is the record's own: itself, and for feedback what it is about."""
    return (record.id,) if isinstance(record, InferenceRecord) else (record.id, record.inference_id)


def _living(session: Session, records: Sequence[Record]) -> Sequence[Record]:
    erased = erased_among(session, {one for record in records for one in subjects(record)})
    return [record for record in records if erased.isdisjoint(subjects(record))] if erased else records


def inference_row(record: InferenceRecord) -> dict[str, Any]:
    """The row of table `inference` that a record becomes, keyed by column name."""
    return {**msgspec.structs.asdict(record), "content_hash": content_hash(record)}


def feedback_row(record: FeedbackRecord) -> dict[str, Any]:
    """The row of table `feedback` that a record becomes; `current` is decided beside its rivals."""
    return {**msgspec.structs.asdict(record), "current": False, "content_hash": content_hash(record)}


def take_turns(session: Session, alone: bool) -> None:
    """Gateways on one PostgreSQL that bring feedback at once must see each other's rows, and the inferences of it.

    What is removed meanwhile must be seen too, or what is said about it would come behind it and stay: so this is the
    first statement of its transaction, and removing takes the same turns. Inferences may come side by side (not `alone`).
    SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        kind = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        session.connection().execute(text(f"SELECT {kind}({_FEEDBACK_LOCK})"))


# -- whose feedback it is that nobody put a name to


def _users(session: Session, inference_ids: set[str]) -> dict[str, str | None]:
    """The users of those of the inferences that are here."""
    if not inference_ids:
        return {}
    query = select(_inference.c.id, _inference.c.user).where(_inference.c.id.in_(sorted(inference_ids)))
    return {row.id: row.user for row in session.connection().execute(query)}


def _named(record: FeedbackRecord, users: Mapping[str, str | None]) -> FeedbackRecord:
    """The record with its inference's user as the rater, where that was only assumed and is known now."""
    if not record.assumed or record.inference_id not in users:
        return record
    rater = users[record.inference_id] or record.rater
    return msgspec.structs.replace(record, rater=rater, assumed=False)


def _name_waiting(session: Session, inferences: Sequence[InferenceRecord]) -> None:
    """Feedback that came before its inference gets its rater now."""
    connection = session.connection()
    users = {record.id: record.user for record in inferences}
    waiting = select(_feedback).where(_feedback.c.inference_id.in_(sorted(users)), _feedback.c.assumed)
    rows = connection.execute(waiting).mappings().all()
    for row in rows:
        record = _named(
            FeedbackRecord(**{name: row[name] for name in FeedbackRecord.__struct_fields__}), users
        )
        settled = {"rater": record.rater, "assumed": False, "content_hash": content_hash(record)}
        connection.execute(update(_feedback).where(_feedback.c.id == record.id).values(settled))
    if rows:
        _mark_current(session, {row["inference_id"] for row in rows})


def _insert(session: Session, table: Table, rows: list[dict[str, Any]]) -> int:
    """Rows through the driver itself: what SQLAlchemy does for each row takes longer than storing it."""
    if not rows:
        return 0
    connection = session.connection()
    statement, names, positional = _insertion(table, connection.dialect)
    for name in _json_columns(table):
        for row in rows:
            row[name] = _json.encode(row[name]).decode()
    values: Any = [*map(itemgetter(*names), rows)] if positional else rows
    result = cast(
        "CursorResult[Any]",
        connection.exec_driver_sql(statement, values, execution_options={"preserve_rowcount": True}),
    )
    return max(result.rowcount, 0)


@lru_cache
def _insertion(table: Table, dialect: Dialect) -> tuple[str, tuple[str, ...], bool]:
    """The statement that inserts a row unless its id is there, its columns, and whether they are told by position."""
    kind = postgresql if dialect.name == "postgresql" else sqlite
    compiled = kind.insert(table).on_conflict_do_nothing(index_elements=["id"]).compile(dialect=dialect)
    return str(compiled), tuple(column.name for column in table.columns), dialect.positional


@lru_cache
def _json_columns(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if isinstance(column.type, JSON))


def _mark_current(session: Session, inference_ids: set[str]) -> None:
    rival = _feedback.alias("rival")
    newest = (
        select(func.max(rival.c.id))
        .where(rival.c.inference_id == _feedback.c.inference_id, rival.c.rater == _feedback.c.rater)
        .scalar_subquery()
    )
    session.connection().execute(
        update(_feedback)
        .where(_feedback.c.inference_id.in_(sorted(inference_ids)))
        .values(current=_feedback.c.id == newest)
    )


def _add_to_count(session: Session, shard: int, inferences: int, feedback: int) -> None:
    counted = {"shard": shard, "inferences": inferences, "feedback": feedback}
    session.connection().execute(_addition(session.get_bind().dialect.name), counted)


@lru_cache
def _addition(dialect: str) -> Executable:
    kind = postgresql if dialect == "postgresql" else sqlite
    statement = kind.insert(_count).values({column.name: bindparam(column.name) for column in _count.columns})
    addition: Executable = statement.on_conflict_do_update(
        index_elements=["shard"],
        set_={
            "inferences": _count.c.inferences + statement.excluded.inferences,
            "feedback": _count.c.feedback + statement.excluded.feedback,
        },
    )
    return addition
