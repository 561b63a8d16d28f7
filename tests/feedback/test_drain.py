"""From journal to database: every acknowledged record arrives exactly once, whoever dies or is away meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlmodel import Session, select

from feedback.errors import UnavailableError
from feedback.storage.adoption import adopt
from feedback.storage.database import Database
from feedback.storage.drain import Drainer
from feedback.storage.inferences import feedback_of
from feedback.storage.journal import Journal
from feedback.storage.journal_file import segments
from feedback.storage.records import Record
from feedback.storage.tables import Feedback, Inference
from feedback.storage.verify import verify
from tests.feedback.records import NOW, feedback, inference


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path, "os", NOW)
    yield opened
    opened.close()


class Interrupted(Database):
    """A database that can be away."""

    away = False

    def session(self) -> AbstractContextManager[Session]:
        if self.away:
            raise UnavailableError("the database does not answer")
        return super().session()


def _interrupted(database: Database) -> Interrupted:
    return Interrupted(database.engine.url.render_as_string(hide_password=False))


def _stored(database: Database) -> set[str]:
    with database.reading() as session:
        return {*session.exec(select(Inference.id)), *session.exec(select(Feedback.id))}


def _until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def test_what_was_written_stands_in_the_database_whole(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    said = inference(0, user="ünï", metadata={"b": "2", "a": "1"}, error=None)
    rating = feedback(said.id, comment="too curt", correction='{"intent": "parcel"}', tags=["tone"])
    journal.append([said, rating])
    assert Drainer(journal, database, tmp_path).drain_once() == 2
    with database.reading() as session:
        row = session.get(Inference, said.id)
        assert row is not None
        assert {name: getattr(row, name) for name in said.__struct_fields__ if name != "metadata"} == {
            name: getattr(said, name) for name in said.__struct_fields__ if name != "metadata"
        }
        assert row.metadata_ == said.metadata
        (signal_,) = feedback_of(session, said.id)
        told = [name for name in rating.__struct_fields__ if name != "assumed"]  # of no use once it is stored
        assert {name: getattr(signal_, name) for name in told} == {
            name: getattr(rating, name) for name in told
        }
        assert signal_.current


def test_draining_again_after_a_crash_before_forgetting_adds_nothing(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    journal.append([inference(n) for n in range(30)])
    assert Drainer(journal, database, tmp_path).drain_once() == 30
    assert Drainer(journal, database, tmp_path).drain_once() == 0
    assert verify(database, tmp_path).inferences == 30


def test_many_records_are_drained_in_batches(
    journal: Journal, sqlite_database: Database, tmp_path: Path
) -> None:
    journal.append([inference(n) for n in range(1234)])
    drainer = Drainer(journal, sqlite_database, tmp_path)
    assert drainer.drain_once() == 1234
    assert journal.backlog() == 0
    journal.append([inference(2000)])
    assert drainer.drain_once() == 1


@pytest.mark.alone
def test_a_record_is_readable_within_a_second_of_its_write(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    drainer = Drainer(journal, database, tmp_path)
    drainer.start()
    try:
        for n in range(3):
            said = inference(n)
            journal.append([said])
            written = time.monotonic()
            _until(lambda said=said: said.id in _stored(database), 5.0)
            assert time.monotonic() - written < 1.0
    finally:
        drainer.stop()


def test_waking_drains_at_once(
    journal: Journal, sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.storage.drain.INTERVAL", 30.0)
    drainer = Drainer(journal, sqlite_database, tmp_path)
    drainer.start()
    time.sleep(0.3)
    journal.append([inference(0)])
    drainer.wake()
    _until(lambda: journal.backlog() == 0, 5.0)
    drainer.stop()


def test_stopping_drains_what_is_left(journal: Journal, sqlite_database: Database, tmp_path: Path) -> None:
    drainer = Drainer(journal, sqlite_database, tmp_path)
    drainer.start()
    journal.append([inference(n) for n in range(700)])
    drainer.stop()
    assert journal.backlog() == 0
    assert len(_stored(sqlite_database)) == 700


def test_feedback_may_arrive_before_its_inference(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    said = inference(0)
    drainer = Drainer(journal, database, tmp_path)
    journal.append([feedback(said.id)])
    drainer.drain_once()
    with database.reading() as session:
        assert session.get(Inference, said.id) is None
        assert [one.current for one in feedback_of(session, said.id)] == [True]
    journal.append([said])
    drainer.drain_once()
    assert verify(database, tmp_path).sound


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
def test_the_newest_feedback_of_a_rater_is_current_whatever_the_order_of_arrival(
    together: bool, journal: Journal, database: Database, tmp_path: Path
) -> None:
    said = inference(0)
    versions = [feedback(said.id, second, rating=second) for second in (1, 2, 3)]
    other = feedback(said.id, 2, rater="bob", rating=5)
    drainer = Drainer(journal, database, tmp_path)
    arrivals = [versions[1], other, versions[2], versions[0]]
    for arrival in [arrivals] if together else [[one] for one in arrivals]:
        journal.append(arrival)
        drainer.drain_once()
    with database.reading() as session:
        history = feedback_of(session, said.id)
    assert [(one.rater, one.rating) for one in history if one.current] == [("bob", 5), ("ann", 3)]
    assert sorted(one.rating or 0 for one in history if one.rater == "ann") == [1, 2, 3]


def test_two_gateways_that_bring_feedback_of_one_rater_at_once_leave_one_current(
    database: Database, tmp_path: Path
) -> None:
    said = [inference(n) for n in range(20)]
    journals = [Journal.open(tmp_path, "os", NOW) for _ in range(2)]
    drainers = [Drainer(journal, database, tmp_path) for journal in journals]
    for round_ in range(5):
        for place, journal in enumerate(journals):
            journal.append([feedback(one.id, 10 * round_ + place) for one in said])
        threads = [threading.Thread(target=drainer.drain_once) for drainer in drainers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = verify(database, tmp_path)
    assert (found.feedback, found.duplicated, found.corrupt) == (200, 0, 0)
    for journal in journals:
        journal.close()


def test_an_outage_of_the_database_loses_nothing_and_shows_as_lag(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    away = _interrupted(database)
    drainer = Drainer(journal, away, tmp_path)
    drainer.start()
    written: list[Record] = []
    try:
        for n in range(60):
            away.away = 10 <= n < 50
            record = inference(n)
            journal.append([record])
            written.append(record)
            time.sleep(0.01)
            if n == 45:
                assert journal.backlog() >= 30
                assert drainer.lag_seconds > 0.2
        _until(lambda: journal.backlog() == 0)
        assert drainer.lag_seconds == 0.0
    finally:
        drainer.stop()
        away.close()
    assert _stored(database) == {record.id for record in written}


def test_a_postgresql_that_crashes_and_returns_loses_nothing(
    journal: Journal, postgresql_server: Any, postgresql_database: Database, tmp_path: Path
) -> None:
    drainer = Drainer(journal, postgresql_database, tmp_path)
    drainer.start()
    written: list[Record] = []

    def write(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            record = inference(len(written))
            journal.append([record])
            written.append(record)
            time.sleep(0.002)

    try:
        write(0.5)
        server = psutil.Process(postgresql_server.get_pid())
        server.send_signal(
            signal.SIGQUIT
        )  # dies at once, without a checkpoint; replays its own log at the start
        server.wait(30)
        write(1.0)
        assert journal.backlog() > 0
        postgresql_server.start()
        drainer.wake()
        write(0.2)
        _until(lambda: journal.backlog() == 0)
    finally:
        drainer.stop()
    assert _stored(postgresql_database) == {record.id for record in written}
    assert verify(postgresql_database, tmp_path).sound


def test_a_row_that_the_database_refuses_does_not_hold_up_the_others(
    journal: Journal, postgresql_database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endless = "".join(random.choices("abcdefgh", k=9000))  # no index entry holds it
    refused = [feedback(inference(0).id, rater=endless), inference(1, prompt_tokens=2**40, prompt="private")]
    journal.append([inference(2), refused[0], inference(3), refused[1], inference(4)])
    assert Drainer(journal, postgresql_database, tmp_path).drain_once() == 3
    assert journal.backlog() == 0
    kept = sorted(path.name for path in journal.path.parent.glob("*.refused"))
    assert kept == [f"{journal.path.stem}-2.refused", f"{journal.path.stem}-4.refused"]
    assert verify(postgresql_database, tmp_path).missing == 2
    assert all(record.id in caplog.text for record in refused)
    assert "private" not in caplog.text and endless[:100] not in caplog.text


def test_a_damaged_row_is_kept_aside_and_the_others_arrive(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    written = [inference(n) for n in range(3)]
    journal.append(written)
    (segment,) = segments(journal.path)
    data = segment.path.read_bytes()
    place = data.index(b"parcel", data.index(written[1].id.encode()))
    segment.path.write_bytes(data[:place] + b"parcal" + data[place + 6 :])
    assert Drainer(journal, database, tmp_path).drain_once() == 2
    (kept,) = journal.path.parent.glob("*.damaged")
    assert b"parcal" in kept.read_bytes()
    found = verify(database, tmp_path)
    assert (found.inferences, found.corrupt) == (2, 1)


def test_journals_without_an_owner_are_adopted_and_deleted(database: Database, tmp_path: Path) -> None:
    written: set[str] = set()
    for _ in range(3):
        journal = Journal.open(tmp_path, "os", NOW)
        records = [inference(n) for n in range(600)]
        journal.append(records)
        written |= {record.id for record in records}
        journal.close()
    living = Journal.open(tmp_path, "os", NOW)
    drainer = Drainer(living, database, tmp_path)
    drainer.start()
    _until(lambda: len(_stored(database)) == 1800)
    drainer.stop()
    assert _stored(database) == written
    assert all(path.name.startswith(living.path.name) for path in living.path.parent.iterdir())
    living.close()


def test_the_own_journal_does_not_wait_for_the_end_of_an_adoption(
    sqlite_database: Database, tmp_path: Path
) -> None:
    left = Journal.open(tmp_path, "os", NOW)
    left.append([inference(n) for n in range(5000)])
    left.close()
    own = Journal.open(tmp_path, "os", NOW)
    drainer = Drainer(own, sqlite_database, tmp_path)
    drainer.drain_once()
    mine = inference(9000)
    own.append([mine])
    drainer.drain_once()
    stored = _stored(sqlite_database)
    assert mine.id in stored and len(stored) < 5001
    while drainer.drain_once():
        pass
    assert len(_stored(sqlite_database)) == 5001
    own.close()


def test_a_journal_whose_owner_died_while_making_it_is_cleared_away(
    sqlite_database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f.marks").touch()
    (folder / "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e30-0000000000000001.log").touch()
    assert list(adopt(sqlite_database, tmp_path)) == []
    assert list(folder.iterdir()) == []


def test_of_a_damaged_journal_all_that_is_sound_arrives_and_the_rest_is_counted(
    sqlite_database: Database, tmp_path: Path
) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    journal.append([inference(n) for n in range(300)])
    (segment,) = segments(journal.path)
    journal.close()
    data = bytearray(segment.path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = os.urandom(4096)
    segment.path.write_bytes(bytes(data))
    arrived = sum(adopt(sqlite_database, tmp_path))
    assert 280 < arrived < 300
    assert all(kept.suffix == ".damaged" for kept in segment.path.parent.iterdir())
    assert verify(sqlite_database, tmp_path).corrupt == 300 - arrived


@pytest.mark.parametrize(
    ("kind", "sync", "draining"),
    [("sqlite", "os", True), ("sqlite", "disk", False), ("postgresql", "os", True)],
    ids=["sqlite while draining", "before draining", "postgresql while draining"],
)
def test_no_acknowledged_record_is_lost_or_doubled_when_its_process_is_killed(
    kind: str, sync: str, draining: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(f"{kind}_database")
    url = database.engine.url.render_as_string(hide_password=False) if draining else ""
    acknowledged: list[str] = []
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.feedback.crashing_writer", str(tmp_path), sync, url],
            stdout=subprocess.PIPE,
            text=True,
            cwd=request.config.rootpath,
        )
        assert writer.stdout is not None
        try:
            for _ in range(random.randrange(30, 600)):
                acknowledged.append(writer.stdout.readline().strip())
        finally:
            writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate(timeout=30)
        acknowledged += [line for line in rest.split("\n")[:-1] if line]
    assert "" not in acknowledged, "a writer ended by itself"
    for _ in adopt(database, tmp_path):
        pass
    assert set(acknowledged) - _stored(database) == set()
    assert len(acknowledged) == len(set(acknowledged))
    found = verify(database, tmp_path)
    assert found.sound
    assert list((tmp_path / "journal").iterdir()) == []


def test_the_journal_is_written_without_any_database(journal: Journal) -> None:
    nowhere = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    drainer = Drainer(journal, nowhere, journal.path.parent.parent)
    drainer.start()
    started = time.monotonic()
    for n in range(200):
        journal.append([inference(n)])
    assert time.monotonic() - started < 2.0
    assert journal.backlog() == 200
    drainer.stop()
    nowhere.close()
