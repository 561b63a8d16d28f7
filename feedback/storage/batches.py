"""One batch of journal entries on its way into the database, with what cannot go there set aside."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

from feedback.storage.aside import set_aside
from feedback.storage.database import Database
from feedback.storage.faults import refuses_a_row
from feedback.storage.journal_reader import Entry
from feedback.storage.records import Record
from feedback.storage.upsert import SHARDS, store

BATCH = 64
"""Small, as a batch holds the interpreter for a millisecond or two while the event loop waits; 500 rows bring no more."""

log = logging.getLogger(__name__)


def bring(database: Database, directory: Path, journal: str, entries: list[Entry]) -> int:
    """Store a batch in one transaction; how many rows were new.

    A damaged entry, and a record that the database refuses, is kept as a file first: it never holds the others up.
    Raises what `Database.session` raises when the database is away.
    """
    sound: list[tuple[Entry, Record]] = []
    for entry in entries:
        if entry.record is None:
            path = set_aside(directory, journal, entry.seq, entry.body, "damaged", entry.first)
            many = entry.seq - entry.first + 1
            log.error("%d records of journal %s are damaged; what is left is kept as %s", many, journal, path)
        else:
            sound.append((entry, entry.record))
    shard = zlib.crc32(journal.encode()) % SHARDS
    try:
        return _store(database, [record for _, record in sound], shard)
    except Exception as error:
        if not refuses_a_row(error):
            raise
    stored = 0
    for entry, record in sound:
        try:
            stored += _store(database, [record], shard)
        except Exception as error:
            if not refuses_a_row(error):
                raise
            path = set_aside(directory, journal, entry.seq, entry.body, "refused")
            reason = str(error).splitlines()[0]
            log.error("the database refuses %s, kept as %s: %s", record.id, path, reason)
    return stored


def _store(database: Database, records: list[Record], shard: int) -> int:
    if not records:
        return 0
    with database.session() as session:
        new = store(session, records, shard)
        session.commit()
    return new
