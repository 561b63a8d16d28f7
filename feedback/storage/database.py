"""The database: SQLite in a file or PostgreSQL, reached through one door.

Everything is synchronous; the server calls it from threads. Nothing on the path of a request needs it: what has to be
written there goes to the journal first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlmodel import Session

from feedback.errors import NotFoundError, SettingsError, StorageError, UnavailableError
from feedback.settings import Settings
from feedback.storage import faults
from feedback.storage.journal_file import FOLDER
from feedback.storage.migrations import HEAD

_BUSY_SECONDS = 20
_READING = {"starloop_reading": True}


class Database:
    """A pool of connections to the one database; sessions come from here.

    `sync` is for SQLite: with "disk" a commit survives a power cut, as PostgreSQL's do anyway.
    """

    def __init__(self, url: str, sync: Literal["os", "disk"] = "os") -> None:
        try:
            parsed = make_url(url)
            self.dialect = parsed.get_backend_name()
            if self.dialect not in ("sqlite", "postgresql"):
                raise ArgumentError(f"{self.dialect} is neither sqlite nor postgresql")
            options: dict[str, Any] = {
                "pool_size": 10,
                "max_overflow": 30,
                "pool_timeout": _BUSY_SECONDS,
                "hide_parameters": True,  # what users wrote stays out of error messages and so out of logs
            }
            if self.dialect == "postgresql":
                options |= {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}
            self.engine: Engine = create_engine(parsed, **options)
        except (ArgumentError, NoSuchModuleError) as error:
            raise SettingsError(
                [
                    f"storage.database: cannot be used: {error}; write postgresql://user@host/name, or leave it empty"
                ]
            ) from None
        self._file = Path(parsed.database) if self.dialect == "sqlite" and parsed.database else None
        self._identity: tuple[int, int] | None = None
        if self.dialect == "sqlite":
            event.listen(self.engine, "connect", partial(_prepare_sqlite, sync))
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session that may write; what is not committed is rolled back at its end.

        On SQLite it holds the write lock from its first statement on, as a transaction that reads and then writes
        cannot take the lock later. So keep it short, and never open a second one inside it in the same thread.
        """
        self._check_file()
        with faults.translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session on one unchanging view that keeps no writer waiting, for long reads. It must not write."""
        self._check_file()
        engine = self.engine.execution_options(**_READING)
        if self.dialect == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with faults.translated(), Session(engine, expire_on_commit=False) as session:
            yield session

    def upgrade(self) -> str:
        """Bring the tables to this release's form, and say its revision; several processes may do so at once."""
        if self._revision() == HEAD:
            return HEAD
        # Alembic takes as long to import as all else together; nearly every start finds the tables as they should be.
        from feedback.storage.migrations.upgrade import upgrade

        with faults.translated(), self.engine.begin() as connection:
            return upgrade(connection)

    def _revision(self) -> str | None:
        """What the database says of itself; None without tables, and when it does not answer."""
        self._check_file()
        try:
            with self.engine.connect() as connection:
                return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        except SQLAlchemyError:
            return None

    def ping(self) -> None:
        """Raises `UnavailableError` when the database does not answer."""
        with self.reading() as session:
            session.connection().execute(text("SELECT 1"))

    def _check_file(self) -> None:
        """Raises `UnavailableError` when SQLite's file is not the one that was opened: what is written would be lost.

        An open file that was deleted takes every write and is gone with the process.
        """
        if self._file is None:
            return
        try:
            found = self._file.stat()
        except FileNotFoundError:
            if self._identity is None:
                return  # not made yet
        else:
            identity = (found.st_dev, found.st_ino)
            self._identity = self._identity or identity
            if identity == self._identity:
                return
        raise UnavailableError(
            f"{self._file}: the database was deleted or replaced while it is in use; put it back, or restart to go on "
            "with what stands there now"
        )

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def open_database(settings: Settings) -> Database:
    """The configured database. Makes the data directory; does not upgrade.

    Raises `StorageError` when the directory cannot be made or written to.
    """
    directory = settings.directory
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # what users wrote is in there
        probe = directory / f".writable-{time.monotonic_ns()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"{directory}: the data directory cannot be written to ({error.strerror}); "
            "make it writable or set storage.directory to another"
        ) from error
    return Database(settings.database_url, settings.capture.sync)


@contextmanager
def opened(settings: Settings, existing: bool = False) -> Iterator[Database]:
    """The configured database, upgraded, for as long as the block runs: what commands use.

    With `existing` nothing is made where there is no record: a command that only looks must not find an empty one of its
    own making in the wrong directory. Raises `NotFoundError` then.
    """
    if existing:
        need_record(settings)
    database = open_database(settings)
    try:
        database.upgrade()
        yield database
    finally:
        database.close()


def need_record(settings: Settings) -> None:
    """Raises `NotFoundError` where no database stands yet, so that looking for it would make one."""
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite":
        return  # a server's database is named in full, so it is hardly another by mistake
    # What was acknowledged may stand in a journal alone.
    if Path(url.database or "").is_file() or (settings.directory / FOLDER).is_dir():
        return
    raise NotFoundError(
        f"there is no record in {settings.directory.absolute()}; name the configuration of the one that you mean with "
        "--config or STARLOOP_CONFIG (`starloop up` begins a new one)"
    )


def _prepare_sqlite(sync: Literal["os", "disk"], connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite` alone
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what users wrote does not stay behind in free pages
    connection.execute(f"PRAGMA synchronous = {'FULL' if sync == 'disk' else 'NORMAL'}")
    deadline = time.monotonic() + _BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except (
            connection.OperationalError
        ):  # another process changes it just now; SQLite does not wait for this
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("starloop_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
