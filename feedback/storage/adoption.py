"""Adopting journals whose owner is gone: what stands in them is brought to the database, then the file goes."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path

from feedback.errors import StorageError
from feedback.storage import journal_file
from feedback.storage.batches import BATCH, bring, check_linked
from feedback.storage.database import Database
from feedback.storage.journal_file import JournalReader, UnreadableJournalError

log = logging.getLogger(__name__)


def adopt(database: Database, directory: Path) -> Generator[int, None, None]:
    """Drain and delete every journal that no process owns, yielding after each batch how many rows were new.

    A damaged file is salvaged as far as it can be read and kept as `<id>.unreadable` for a person to look at. One that
    cannot be reached is logged and left for later. Raises what `Database.session` raises.
    """
    for path in sorted((directory / journal_file.FOLDER).glob("*.sqlite")):
        try:
            descriptor = journal_file.lock(path)
        except OSError as error:
            log.error("%s cannot be adopted: %s", path, error)
            continue
        if descriptor is None:
            continue
        try:
            # Without the file, another process adopted and deleted it between the listing and the lock.
            if not path.exists() or (yield from _drain(path, database, directory)):
                journal_file.remove(path)
        finally:
            journal_file.release(descriptor)


def _drain(path: Path, database: Database, directory: Path) -> Generator[int, None, bool]:
    """Bring all of one journal; whether the file has served its purpose."""
    reader = JournalReader(path)
    position = 0
    try:
        while True:
            try:
                entries = reader.read(position, BATCH)
                if position and entries:
                    check_linked(path, position, entries)
            except UnreadableJournalError as error:
                log.error("%s; what can be read of it is stored, and the file is kept", error)
                yield bring(database, directory, path.stem, reader.salvage())
                reader.close()
                path.replace(path.with_suffix(".unreadable"))
                return True
            except StorageError as error:
                log.error("%s; it is left for later", error)
                return False
            if not entries:
                return True
            yield bring(database, directory, path.stem, entries)
            position = entries[-1].seq
    finally:
        reader.close()
