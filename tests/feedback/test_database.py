"""The database: one form on both kinds, safe to upgrade together, errors that say what to do."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import Session, SQLModel, select

from feedback.errors import SettingsError, StorageError, UnavailableError
from feedback.settings import Settings, Storage
from feedback.storage.database import Database, open_database
from feedback.storage.migrations import HEAD
from feedback.storage.migrations.upgrade import configuration
from feedback.storage.tables import Lease


def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def test_the_newest_revision_is_told_as_alembic_tells_it(database: Database) -> None:
    with database.engine.connect() as connection:
        scripts = ScriptDirectory.from_config(configuration(connection))
        assert scripts.get_current_head() == HEAD
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == HEAD


def _upgrade(url: str, barrier: threading.Barrier) -> None:
    database = Database(url)
    barrier.wait(30)
    database.upgrade()
    database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_together_upgrade_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'fresh.sqlite'}"
    else:
        url = request.getfixturevalue("empty_postgresql")
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    processes = [spawn.Process(target=_upgrade, args=(url, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    database = Database(url)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    database.close()


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    first = database.upgrade()
    with database.session() as session:
        session.add(Lease(name="loop", holder="here", expires=1.0))
        session.commit()
    assert database.upgrade() == first
    with database.session() as session:
        assert session.get(Lease, "loop") is not None


def test_a_database_of_a_newer_release_is_left_alone(database: Database) -> None:
    with database.session() as session:
        session.connection().execute(text("UPDATE alembic_version SET version_num = '9999'"))
        session.commit()
    with pytest.raises(StorageError, match="newer release"):
        database.upgrade()


def test_what_is_not_committed_is_not_kept(database: Database) -> None:
    with database.session() as session:
        session.add(Lease(name="loop", holder="here", expires=1.0))
        session.flush()
    with database.session() as session:
        assert session.get(Lease, "loop") is None


def test_objects_can_be_read_after_their_session_has_ended(database: Database) -> None:
    with database.session() as session:
        lease = Lease(name="loop", holder="here", expires=1.0)
        session.add(lease)
        session.commit()
    assert lease.holder == "here"


def test_sessions_that_read_before_they_write_never_lose_an_update(sqlite_database: Database) -> None:
    """SQLite refuses the write lock to a transaction whose view is old; so the lock is taken first."""
    with sqlite_database.session() as session:
        session.add(Lease(name="count", holder="", expires=0.0))
        session.commit()

    def increment() -> None:
        for _ in range(20):
            with sqlite_database.session() as session:
                lease = session.exec(select(Lease).where(Lease.name == "count")).one()
                time.sleep(0.0005)
                lease.expires += 1
                session.commit()

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite_database.reading() as session:
        assert session.exec(select(Lease)).one().expires == 80.0


def test_a_long_read_keeps_its_view_and_no_writer_waiting(database: Database) -> None:
    with database.reading() as reading:
        assert reading.exec(select(Lease)).all() == []
        started = time.monotonic()
        with database.session() as session:
            session.add(Lease(name="loop", holder="here", expires=1.0))
            session.commit()
        assert time.monotonic() - started < 5
        assert reading.exec(select(Lease)).all() == []
    with database.reading() as later:
        assert len(later.exec(select(Lease)).all()) == 1


def test_a_sqlite_file_is_set_up_for_many_processes(sqlite_database: Database) -> None:
    with sqlite_database.reading() as session:
        assert _pragma(session, "journal_mode") == "wal"
        assert _pragma(session, "synchronous") == 1  # NORMAL
        assert _pragma(session, "foreign_keys") == 1
        assert int(str(_pragma(session, "busy_timeout"))) >= 5000


def test_with_capture_on_disk_a_sqlite_commit_waits_for_the_disk(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'safe.sqlite'}", sync="disk")
    with database.reading() as session:
        assert _pragma(session, "synchronous") == 2  # FULL
    database.close()


def _pragma(session: Session, name: str) -> object:
    return session.connection().execute(text(f"PRAGMA {name}")).scalar_one()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError, match="does not answer"):
        database.ping()
    database.close()


def test_a_database_that_answers_can_be_pinged(database: Database) -> None:
    database.ping()


@pytest.mark.parametrize("url", ["mysql://root@localhost/x", "no url at all", "postgresql+nosuch://x/y"])
def test_a_url_that_cannot_be_used_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(SettingsError, match=r"storage\.database"):
        Database(url)


def test_a_database_without_tables_says_what_to_run(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'fresh.sqlite'}")
    with pytest.raises(StorageError, match="starloop db upgrade"), database.session() as session:
        session.exec(select(Lease)).all()
    database.close()


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text(
        "these are not the bytes of a database, and there are enough of them"
    )
    database = Database(f"sqlite:///{tmp_path / 'text.sqlite'}")
    with pytest.raises(StorageError, match="not an SQLite file"):
        database.ping()
    database.close()


def test_opening_makes_the_data_directory_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(storage=Storage(directory=str(tmp_path / "new" / "data")))
    open_database(settings).close()
    assert settings.directory.stat().st_mode & 0o777 == 0o700
    assert list(settings.directory.iterdir()) == []


def test_a_data_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = Settings(storage=Storage(directory=str(tmp_path / "file" / "data")))
    with pytest.raises(StorageError, match=r"make it writable or set storage\.directory"):
        open_database(settings)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_read_only_data_directory_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written to"):
        open_database(Settings(storage=Storage(directory=str(tmp_path))))
