"""`db verify`: what is lost, doubled or changed is counted, and nothing else is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from feedback.storage.database import Database
from feedback.storage.drain import Drainer
from feedback.storage.journal import Journal
from feedback.storage.records import FeedbackRecord, InferenceRecord
from feedback.storage.verify import Verification, verify
from tests.feedback.records import NOW, feedback, inference


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path, "os", NOW)
    yield opened
    opened.close()


@pytest.fixture
def said(journal: Journal, database: Database, tmp_path: Path) -> list[InferenceRecord]:
    """Twelve inferences with two feedbacks of one rater each, drained."""
    records = [inference(n, output=f"answer {n}", latency_ms=n + 5) for n in range(12)]
    ratings: list[FeedbackRecord] = []
    for record in records:
        ratings += [feedback(record.id, 100), feedback(record.id, 200, tags=["late"])]
    journal.append([*records, *ratings])
    Drainer(journal, database, tmp_path).drain_once()
    journal.close()
    return records


def _change(database: Database, statement: str, **values: object) -> None:
    with database.session() as session:
        assert session.connection().execute(text(statement), values).rowcount != 0
        session.commit()


def test_an_untouched_record_is_sound(
    said: list[InferenceRecord], database: Database, tmp_path: Path
) -> None:
    found = verify(database, tmp_path)
    assert found == Verification(inferences=12, feedback=24, missing=0, duplicated=0, corrupt=0)
    assert found.sound


def test_an_empty_database_is_sound(database: Database, tmp_path: Path) -> None:
    assert verify(database, tmp_path) == Verification(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        "output = 'answer 4'",
        "\"user\" = 'somebody'",
        "status = 201",
        "latency_ms = latency_ms + 0.0001",
        "stored = NOT stored",
        'metadata = \'{"channel": "mael"}\'',
        "purpose = 'replay'",
        "request = NULL",
        "content_hash = ''",
    ],
)
def test_a_changed_inference_is_corrupt(
    change: str, said: list[InferenceRecord], database: Database, tmp_path: Path
) -> None:
    _change(database, f"UPDATE inference SET {change} WHERE id = :id", id=said[3].id)
    told = [f"inference {said[3].id}: its hash is not that of its content"]
    assert verify(database, tmp_path) == Verification(12, 24, 0, 0, corrupt=1, problems=told)


@pytest.mark.parametrize(
    "change", ["rating = 5", "rater = 'bob'", "correction = '{}'", "choice = 1", "tags = '[]'"]
)
def test_a_changed_feedback_is_corrupt(
    change: str, said: list[InferenceRecord], database: Database, tmp_path: Path
) -> None:
    _change(
        database,
        f"UPDATE feedback SET {change} WHERE inference_id = :id AND NOT current",
        id=said[3].id,
    )
    assert verify(database, tmp_path).corrupt >= 1


def test_a_row_that_is_gone_is_missing(
    said: list[InferenceRecord], database: Database, tmp_path: Path
) -> None:
    _change(database, "DELETE FROM inference WHERE id = :id", id=said[3].id)
    _change(database, "DELETE FROM feedback WHERE inference_id = :id", id=said[5].id)
    found = verify(database, tmp_path)
    assert (found.inferences, found.feedback, found.missing) == (11, 22, 3)


def test_two_current_feedbacks_of_one_rater_are_duplicated(
    said: list[InferenceRecord], database: Database, tmp_path: Path
) -> None:
    _change(database, "UPDATE feedback SET current = :yes WHERE inference_id = :id", yes=True, id=said[3].id)
    assert verify(database, tmp_path) == Verification(12, 24, missing=0, duplicated=1, corrupt=0)


@pytest.mark.parametrize("change", ["current = :no", "current = NOT current"])
def test_an_old_feedback_in_the_newest_ones_place_is_corrupt(
    change: str, said: list[InferenceRecord], database: Database, tmp_path: Path
) -> None:
    values = {"id": said[3].id} | ({"no": False} if ":no" in change else {})
    _change(database, f"UPDATE feedback SET {change} WHERE inference_id = :id", **values)
    assert verify(database, tmp_path) == Verification(12, 24, missing=0, duplicated=0, corrupt=1)


def test_an_id_that_stands_twice_is_duplicated(
    journal: Journal, postgresql_database: Database, tmp_path: Path
) -> None:
    record = inference(0)
    journal.append([record])
    Drainer(journal, postgresql_database, tmp_path).drain_once()
    _change(postgresql_database, "ALTER TABLE inference DROP CONSTRAINT inference_pkey")
    _change(postgresql_database, "INSERT INTO inference SELECT * FROM inference")
    found = verify(postgresql_database, tmp_path)
    assert (found.inferences, found.missing, found.duplicated, found.corrupt) == (2, 0, 1, 0)


def test_records_that_wait_for_no_one_are_missing(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    journal.append([inference(n) for n in range(3)])
    assert verify(database, tmp_path, patience=0.2).missing == 3


def test_a_running_server_is_given_time_to_drain(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    drainer = Drainer(journal, database, tmp_path)
    journal.append([inference(n) for n in range(3)])
    drainer.start()
    journal.append([inference(n) for n in range(900)])
    assert verify(database, tmp_path) == Verification(903, 0, 0, 0, 0)
    drainer.stop()


def test_a_server_under_load_raises_no_false_alarm(
    journal: Journal, database: Database, tmp_path: Path
) -> None:
    drainer = Drainer(journal, database, tmp_path)
    drainer.start()
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            said = inference(number)
            journal.append([said, feedback(said.id, number), feedback(said.id, number + 1)])
            number += 1
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            found = verify(database, tmp_path)
            assert found.sound, found
    finally:
        done.set()
        writer.join()
        drainer.stop()
    assert found.inferences > 0
    final = verify(database, tmp_path)
    assert final.sound and final.inferences + final.feedback == journal.last


def test_journals_that_a_crash_left_are_brought_in_first(database: Database, tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    journal.append([inference(n) for n in range(3)])
    journal.close()
    assert verify(database, tmp_path) == Verification(3, 0, 0, 0, 0)
    assert list((tmp_path / "journal").iterdir()) == []


def _flip(path: Path, wanted: bytes, mask: int) -> None:
    data = bytearray(path.read_bytes())
    place = data.rindex(wanted)
    data[place] ^= mask
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("mask", [0x01, 0x80], ids=["to another letter", "to no text at all"])
def test_one_byte_flipped_in_the_file_is_corrupt(
    mask: int, journal: Journal, sqlite_database: Database, tmp_path: Path
) -> None:
    journal.append([inference(n, output=f"answer number {n}") for n in range(12)])
    Drainer(journal, sqlite_database, tmp_path).drain_once()
    sqlite_database.close()
    _flip(tmp_path / "starloop.sqlite", b"answer number 7", mask)
    found = verify(sqlite_database, tmp_path)
    assert (found.inferences, found.corrupt) == (12, 1)
    with sqlite_database.reading() as session:  # the connection that read leniently reads strictly again
        assert session.connection().execute(text("SELECT 'ä'")).scalar_one() == "ä"


def test_a_destroyed_page_is_corrupt_and_stops_nobody(
    journal: Journal, sqlite_database: Database, tmp_path: Path
) -> None:
    journal.append([inference(n, request="x" * 900) for n in range(400)])
    Drainer(journal, sqlite_database, tmp_path).drain_once()
    sqlite_database.close()
    path = tmp_path / "starloop.sqlite"
    data = bytearray(path.read_bytes())
    page = data.rindex(b"x" * 900) // 4096 * 4096  # one of rows, whatever other tables there are
    data[page : page + 4096] = os.urandom(4096)
    path.write_bytes(bytes(data))
    assert verify(sqlite_database, tmp_path).corrupt >= 1
