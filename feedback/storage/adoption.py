"""Adopting journals whose owner is gone: what stands in them is brought to the database, then the files go."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path

from feedback.errors import StorageError
from feedback.storage import journal_file
from feedback.storage.batches import BATCH, bring
from feedback.storage.database import Database
from feedback.storage.journal_reader import Entry, JournalReader
from feedback.storage.marks import Marks

log = logging.getLogger(__name__)


def adopt(database: Database, directory: Path) -> Generator[int, None, None]:
    """Drain and delete every journal that no process owns, yielding after each batch how many rows were new.

    What is damaged in one is kept as files for a person to look at. One that cannot be read is logged and left for later.
    Raises what `Database.session` raises.
    """
    for journal in journal_file.journals(directory):
        try:
            descriptor = journal_file.lock(journal)
        except OSError as error:
            log.error("%s cannot be adopted: %s", journal, error)
            continue
        if descriptor is None:
            continue
        try:
            # Without files, another process adopted and deleted it between the listing and the lock.
            if not journal_file.stands(journal) or (yield from _drain(journal, database, directory)):
                journal_file.remove(journal)
        finally:
            journal_file.release(descriptor)


def _drain(journal: Path, database: Database, directory: Path) -> Generator[int, None, bool]:
    """Bring all of one journal; whether its files have served their purpose."""
    reader = JournalReader(journal)
    marks: Marks | None = None
    try:
        position = reader.start()
        while (entries := _read(reader, position)) is not None:
            if not entries:
                return True
            yield bring(database, directory, journal.name, entries)
            position = entries[-1].seq
            marks = marks or _marks(journal)
            if marks is not None:
                marks.drained = position  # or dying here would cost doing all of it again
        return False
    finally:
        reader.close()
        if marks is not None:
            marks.close()


def _read(reader: JournalReader, position: int) -> list[Entry] | None:
    """The next batch; None, logged, when the files cannot be read."""
    try:
        return reader.read(position, BATCH)
    except StorageError as error:
        log.error("%s; it is left for later", error)
        return None


def _marks(journal: Path) -> Marks | None:
    """The marks to write to; None where the disk has no room for any."""
    try:
        return Marks(journal)
    except OSError:
        return None
