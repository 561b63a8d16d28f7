"""Records come to the database just as well through a process of their own, and none is lost when that dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import msgspec
import pytest
from sqlmodel import Session, select

from feedback.errors import UnavailableError
from feedback.privacy.removal import Removal, remove_inferences
from feedback.privacy.tombstones import open_mason
from feedback.storage.adoption import adopt
from feedback.storage.carrier import Apart, Here, Order, Task
from feedback.storage.database import Database
from feedback.storage.drain import Drainer
from feedback.storage.journal import Journal
from feedback.storage.journal_file import segments
from feedback.storage.journal_reader import JournalReader
from feedback.storage.tables import Feedback
from feedback.storage.upsert import store
from feedback.storage.verify import verify
from tests.feedback.records import NOW, feedback, inference


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


def test_one_whose_worker_is_gone_ends_without_a_word(
    tmp_path: Path, journal: Journal, sqlite_database: Database
) -> None:
    journal.append([inference()])
    task = Task(_url(sqlite_database), "os", str(tmp_path), str(journal.path), "json")
    command = [sys.executable, "-m", "feedback.storage.carrier"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stdin.write(msgspec.json.encode(task) + b"\n" + msgspec.json.encode(Order(0, 1)) + b"\n")
        process.stdin.close()
        assert (process.wait(30), process.stderr.read()) == (0, b"")
    assert verify(sqlite_database, tmp_path).inferences == 1


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


def _remove(session: Session, directory: Path, identifier: str) -> None:
    removal = Removal(open_mason(directory), "erasure", NOW, lambda _: False, True)
    assert remove_inferences(session, [identifier], removal)["inferences"] == 1


def test_of_a_large_batch_what_is_refused_or_damaged_is_kept_and_the_others_arrive(
    tmp_path: Path, journal: Journal, postgresql_database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    endless = "".join(random.choices("abcdefgh", k=9000))  # no index entry holds it
    records = [inference(n) for n in range(400)]
    refused, damaged = feedback(records[0].id, rater=endless), inference(401)
    journal.append([*records[:200], refused, *records[200:], damaged, feedback(records[1].id)])
    (segment,) = segments(journal.path)
    data = segment.path.read_bytes()
    place = data.index(b"parcel", data.index(damaged.id.encode()))
    segment.path.write_bytes(data[:place] + b"parcal" + data[place + 6 :])
    task = Task(_url(postgresql_database), "os", str(tmp_path), str(journal.path), "json")
    drainer = Drainer(journal, postgresql_database, tmp_path, Apart(task))

    assert drainer.drain_once() == 401
    drainer.stop()
    assert {path.name for path in journal.path.parent.glob("*-*.*ed")} == {
        f"{journal.path.stem}-201.refused",
        f"{journal.path.stem}-402.damaged",
    }
    found = verify(postgresql_database, tmp_path)
    assert (found.inferences, found.feedback, found.missing, found.corrupt) == (400, 1, 1, 1)
    lines = [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()]
    said = [
        line for line in lines if journal.path.stem in line
    ]  # other threads of this process may speak too
    assert len(said) == 2 and "damaged" in said[0] and refused.id in said[1]
    assert endless[:100] not in str(said)


def test_in_one_batch_what_was_erased_stays_away_with_what_is_said_about_it(
    tmp_path: Path, journal: Journal, database: Database
) -> None:
    erased, kept = inference(), inference(1)
    with database.session() as session:
        store(session, [erased], 0)
        _remove(session, tmp_path, erased.id)
        session.commit()
    about = feedback(erased.id)
    journal.append([about, kept, erased, feedback(kept.id), *(inference(n) for n in range(2, 100))])
    drainer = Drainer(journal, database, tmp_path, _apart(journal, _url(database), tmp_path))

    assert drainer.drain_once() == 100
    drainer.stop()
    found = verify(database, tmp_path)
    assert found.sound and (found.inferences, found.feedback) == (99, 1)


def test_what_is_said_about_an_inference_while_it_is_removed_does_not_stay_behind(
    tmp_path: Path, database: Database
) -> None:
    removed = inference()
    with database.session() as session:
        store(session, [removed], 0)
        session.commit()

    def say() -> int:
        with database.session() as session:
            new = store(session, [feedback(removed.id)], 0)
            session.commit()
            return new

    with ThreadPoolExecutor(1) as beside:
        with database.session() as session:
            _remove(session, tmp_path, removed.id)
            said = beside.submit(say)
            with pytest.raises(TimeoutError):  # it waits for its turn
                said.result(0.5)
            session.commit()
        assert said.result(20) == 0
    with database.reading() as session:
        assert session.exec(select(Feedback)).all() == []


def test_records_of_megabytes_are_read_a_few_at_a_time(tmp_path: Path, journal: Journal) -> None:
    large = "x" * 3_000_000
    journal.append([inference(n, request=large) for n in range(5)] + [inference(9)])

    assert [entry.seq for entry in journal.read(0, 512)] == [1, 2]
    assert [entry.seq for entry in journal.read(4, 512)] == [5, 6]
