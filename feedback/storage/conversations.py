"""Which version a conversation stays on, as all gateways of one database tell each other.

The drainer writes a row when a conversation begins or changes its version, so rows stand in the order in which they
were stored and a gateway can read what is new; the inferences themselves come in the order in which they began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, cast

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from feedback.storage.records import InferenceRecord
from feedback.storage.tables import Conversation

_table = cast(Table, Conversation.__table__)  # type: ignore[attr-defined]


class Heard(NamedTuple):
    """One row of the table."""

    key: str
    version: str
    created: float
    """When the answer that says so was asked for (Unix seconds)."""
    stored: float
    """When it came into the database."""


def conversation_key(model: str, conversation: str) -> str:
    """What stands for a conversation in the table: its name may be something that a user wrote."""
    text = f"{model}\0{conversation}".encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def note_conversations(session: Session, records: Sequence[InferenceRecord], now: float) -> None:
    """Write down, in the session's transaction, which version answered each conversation last.

    Only what users asked without naming a version counts, and an older answer never takes back what a later one said.
    """
    rows = {
        conversation_key(record.model, record.conversation): record
        for record in sorted(records, key=lambda record: record.created)
        if record.conversation is not None and answers_a_conversation(record)
    }
    if not rows:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert = dialect.insert(_table)
    statement = insert.on_conflict_do_update(
        index_elements=["key"],
        set_={name: insert.excluded[name] for name in ("version", "created", "stored")},
        where=(_table.c.version != insert.excluded.version) & (_table.c.created < insert.excluded.created),
    )
    # In the order of their keys, so that gateways that write at once never wait for each other in a circle.
    values = [
        {"key": key, "version": record.version, "created": record.created, "stored": now}
        for key, record in sorted(rows.items())
    ]
    session.connection().execute(statement, values)


def answers_a_conversation(record: InferenceRecord) -> bool:
    """Whether this is an answer that its conversation stays with."""
    return (
        record.status == 200 and record.error is None and record.purpose == "production" and not record.pinned
    )


def heard_since(session: Session, stored: float, limit: int) -> list[Heard]:
    """Rows that were stored after a moment, oldest first; of more than `limit` the newest."""
    newest = select(_table).where(_table.c.stored > stored).order_by(_table.c.stored.desc()).limit(limit)
    rows = session.connection().execute(newest).all()
    return [Heard(row.key, row.version, row.created, row.stored) for row in reversed(rows)]


def forget_conversations(session: Session, before: float) -> None:
    """Delete what was stored before a moment: nobody goes on with a conversation after weeks."""
    session.connection().execute(delete(_table).where(_table.c.stored < before))
