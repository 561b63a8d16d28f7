"""Bringing a database to this release's tables, in one transaction that only one process at a time can hold."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from feedback.errors import StorageError

_LOCK = 0x5741_524C  # any number that other users of the same PostgreSQL server are unlikely to lock


def upgrade(connection: Connection) -> str:
    """Run the revisions that are missing, inside the connection's open transaction; the revision reached.

    On SQLite that transaction already holds the write lock; on PostgreSQL an advisory lock does the same. Raises
    `StorageError` when the database was made by a newer release.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    # Six lines about Alembic's own plugins would stand before all else in the log of a first start.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    try:
        command.upgrade(configuration(connection), "head")
    except CommandError as error:
        raise StorageError(
            f"the database was made by a newer release ({error}); install that, or restore a backup"
        ) from error
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def configuration(connection: Connection) -> Config:
    """Alembic's configuration, without a file: where the revisions are and which connection to use."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
