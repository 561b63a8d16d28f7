"""What stands in journals that live processes own, and does not reach the database."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import select

from feedback.errors import StorageError
from feedback.privacy.tombstones import erased_among
from feedback.storage import journal_file
from feedback.storage.aside import is_refused
from feedback.storage.database import Database
from feedback.storage.journal_reader import Entry, JournalReader
from feedback.storage.upsert import RECORD_TABLES, subjects

_BATCH = 1000


def await_drainers(database: Database, directory: Path, patience: float) -> int:
    """How many records have not come to the database once draining has stood still for `patience` seconds.

    Records that the database refused, and damaged ones, are no matter of this: drainers keep them as files.
    """
    missing = 0
    for journal in journal_file.journals(directory):
        reader = JournalReader(journal)
        try:
            last = reader.last()  # what is written from now on is no matter of this check
            position = reader.start()
            while position < last and (entries := _read(reader, position, last)):
                position = entries[-1].seq
                entries = [entry for entry in entries if not is_refused(directory, journal.name, entry.seq)]
                absent = _wait(database, entries, patience)
                if absent:
                    patience = 0.0  # who has stood still for that long is not waited for again
                missing += sum(not is_refused(directory, journal.name, entry.seq) for entry in absent)
        except StorageError:
            if journal_file.stands(journal):  # else its owner drained and deleted it meanwhile
                raise
        finally:
            reader.close()
    return missing


def _read(reader: JournalReader, position: int, last: int) -> list[Entry]:
    """Entries above a position, or above what has been drained and deleted meanwhile."""
    try:
        return reader.read(position, _BATCH, last)
    except StorageError:
        drained = reader.start()
        if drained <= position:
            raise
        return reader.read(drained, _BATCH, last)


def _wait(database: Database, entries: list[Entry], patience: float) -> list[Entry]:
    """The entries that are not in the database when none has come there for `patience` seconds."""
    absent = _absent(database, entries)
    moved = time.monotonic()
    while absent and time.monotonic() - moved < patience:
        time.sleep(0.1)
        before = len(absent)
        absent = _absent(database, absent)
        if len(absent) < before:
            moved = time.monotonic()
    return absent


def _absent(database: Database, entries: list[Entry]) -> list[Entry]:
    records = [entry.record for entry in entries if entry.record is not None]
    stored: set[str] = set()
    with database.reading() as session:
        for table, kind in RECORD_TABLES:
            ids = [record.id for record in records if isinstance(record, kind)]
            stored.update(
                session.connection().execute(select(table.c.id).where(table.c.id.in_(ids))).scalars()
            )
        erased = erased_among(session, {one for record in records for one in subjects(record)})
    return [
        entry
        for entry in entries
        if entry.record is not None
        and entry.record.id not in stored
        and erased.isdisjoint(subjects(entry.record))
    ]
