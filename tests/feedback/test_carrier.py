"""Records come to the database just as well through a process of their own, and none is lost when that dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.errors import UnavailableError
from feedback.storage.adoption import adopt
from feedback.storage.carrier import Apart, Here, Task
from feedback.storage.database import Database
from feedback.storage.drain import Drainer
from feedback.storage.journal import Journal
from feedback.storage.journal_reader import JournalReader
from feedback.storage.verify import verify
from tests.feedback.records import NOW, inference


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path, "os", NOW)
    yield journal
    journal.close()


def _apart(journal: Journal, url: str, directory: Path) -> Apart:
    return Apart(Task(url, "os", str(directory), str(journal.path)))


def _url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def test_a_process_of_its_own_brings_all_records(
    tmp_path: Path, journal: Journal, database: Database
) -> None:
    drainer = Drainer(journal, database, tmp_path, _apart(journal, _url(database), tmp_path))
    journal.append([inference() for _ in range(1500)])

    assert drainer.drain_once() == 1500
    assert drainer.drain_once() == 0
    assert journal.backlog() == 0
    drainer.stop()


def test_a_process_that_was_killed_is_followed_by_another(
    tmp_path: Path, journal: Journal, sqlite_database: Database
) -> None:
    apart = _apart(journal, _url(sqlite_database), tmp_path)
    drainer = Drainer(journal, sqlite_database, tmp_path, apart)
    journal.append([inference()])
    assert drainer.drain_once() == 1
    assert apart.process_id is not None
    os.kill(apart.process_id, signal.SIGKILL)
    journal.append([inference()])

    with pytest.raises(UnavailableError, match="died"):
        drainer.drain_once()
    assert drainer.drain_once() == 1
    drainer.stop()


def test_it_outlives_the_signals_that_end_the_gateway_and_goes_when_told(
    tmp_path: Path, journal: Journal, sqlite_database: Database
) -> None:
    apart = _apart(journal, _url(sqlite_database), tmp_path)
    drainer = Drainer(journal, sqlite_database, tmp_path, apart)
    journal.append([inference()])
    drainer.drain_once()
    process = apart.process_id
    assert process is not None
    for ending in (signal.SIGTERM, signal.SIGINT):
        os.kill(process, ending)
    journal.append([inference()])

    assert drainer.drain_once() == 1
    drainer.stop()
    assert not Path(f"/proc/{process}").exists()


def test_a_database_that_is_away_shows_as_that(tmp_path: Path, journal: Journal) -> None:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
    drainer = Drainer(journal, Database(nowhere), tmp_path, _apart(journal, nowhere, tmp_path))
    journal.append([inference()])

    with pytest.raises(UnavailableError):
        drainer.drain_once()
    assert journal.backlog() == 1
    drainer.stop()


def test_one_that_outlives_its_worker_takes_what_another_has_brought_for_no_damage(
    sqlite_database: Database, tmp_path: Path
) -> None:
    died = Journal.open(tmp_path, "os", NOW)
    died.append([inference(n) for n in range(15)])
    reader = JournalReader(died.path)
    died.close()  # its lock is free now, as after a kill
    list(adopt(sqlite_database, tmp_path))
    carried = Here(reader, died.path, sqlite_database, tmp_path).carry(0, 15)
    assert "another process took what it held" in carried.problem
    assert list(died.path.parent.iterdir()) == []
    assert verify(sqlite_database, tmp_path).sound
