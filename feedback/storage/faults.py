"""What a database driver says when something is wrong, in this project's errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from feedback.errors import StarloopError, StorageError, UnavailableError

# By what SQLite's message holds; its errors carry no finer code through the driver.
_SQLITE_STORAGE = {
    "readonly": "is read-only; make its file and directory writable",
    "disk is full": "has no room: the disk is full; free some space",
    "disk i/o": "cannot be read or written: the disk reports an error",
    "unable to open": "cannot be opened; check that its directory exists and may be written to",
    "malformed": "is damaged; restore it from a backup",
    "not a database": "is not an SQLite file, or damaged; restore it from a backup",
    "could not decode": "holds text that is damaged; run `starloop db verify`",
    "no such table": "has no tables yet; run `starloop db upgrade`",
    "no such column": "is of an older release; run `starloop db upgrade`",
}
_POSTGRESQL_STORAGE = {
    "25006": "is read-only; point storage.database at the primary",
    "53100": "has no room: the disk is full; free some space",
    "42P01": "has no tables yet; run `starloop db upgrade`",
    "42703": "is of an older release; run `starloop db upgrade`",
    "42501": "does not let this user in; grant it the rights on the schema",
}


def refuses_a_row(error: Exception) -> bool:
    """Whether it is a row itself that the database will never take, however often it is tried."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        # PostgreSQL's classes: data exception, integrity violation, program limit (an index entry too long)
        return isinstance(error, (DataError, IntegrityError)) or state[:2] in ("22", "23", "54")
    return isinstance(error, (OverflowError, UnicodeError))


@contextmanager
def translated() -> Iterator[None]:
    """Turn a driver's error into `UnavailableError` (try again) or `StorageError` (act); leave others as they are."""
    try:
        yield
    except PoolTimeoutError as error:
        raise UnavailableError("the database is too busy: all connections are in use; try again") from error
    except DBAPIError as error:
        known = _translation(error)
        if known is None:
            raise
        raise known from error


def _translation(error: DBAPIError) -> StarloopError | None:
    if refuses_a_row(error):
        return None
    message = str(error.orig)
    state = getattr(error.orig, "sqlstate", None)
    if state in _POSTGRESQL_STORAGE:
        return StorageError(f"the database {_POSTGRESQL_STORAGE[state]} ({message.splitlines()[0]})")
    if isinstance(error.orig, sqlite3.Error):
        for sign, advice in _SQLITE_STORAGE.items():
            if sign in message.lower():
                return StorageError(f"the database {advice} ({message})")
    if isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated:
        return UnavailableError(
            f"the database does not answer ({' '.join(message.split())}); it is tried again"
        )
    return None
