"""Batches and stored completions in the record, on either database."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session

from feedback.access.audit import Actor
from feedback.batches import kept
from feedback.batches.output import end_batch
from feedback.errors import ConflictError
from feedback.files.stored import Viewer, add_file, path_of
from feedback.ids import new_id
from feedback.imports.uploads import Upload
from feedback.storage.batch_table import RequestBatch
from feedback.storage.completions import Reader, Wanted, change_metadata, list_completions
from feedback.storage.database import Database
from feedback.storage.records import InferenceRecord
from feedback.storage.upsert import store

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ANN, ALL = Actor("ann", "key"), Viewer(None, True)


def begun(database: Database, directory: Path) -> RequestBatch:
    with Upload(directory, 1 << 20, NOW, "files") as upload:
        upload.write(b"{}\n")
        upload.end()
        file = add_file(database, directory, upload, "a.jsonl", "batch", ANN, NOW)
    with database.session() as session:
        asked = kept.NewBatch(
            endpoint="/v1/completions", input_file_id=f"file-{file.id}", metadata={"a": "1"}
        )
        row = kept.begin_batch(session, asked, ALL, ANN, NOW)
        session.commit()
        session.refresh(row)
        return row


def now(database: Database, row: RequestBatch) -> RequestBatch:
    with database.reading() as session:
        return session.get_one(RequestBatch, row.id)


def move(database: Database, row: RequestBatch, *statuses: str, **values: Any) -> bool:
    with database.session() as session:
        done = kept.move(session, session.get_one(RequestBatch, row.id), *statuses, NOW, **values)
        session.commit()
        return done


def end(database: Database, directory: Path, row: RequestBatch, to: str) -> None:
    end_batch(database, directory, row, to, [], lambda _: None, NOW)


def test_a_batch_goes_from_status_to_status_into_its_files(database: Database, tmp_path: Path) -> None:
    row = begun(database, tmp_path)
    assert move(database, row, "validating", "in_progress", total=3)
    assert not move(database, row, "validating", "failed")
    with database.session() as session:
        answers = [kept.Answered(2, True, '{"b": 1}', 3, 4), kept.Answered(3, False, '{"c": 1}')]
        kept.add_answers(session, row.id, answers)
        kept.add_answers(session, row.id, [kept.Answered(1, True, '{"a": 1}', 1, 1)])
        session.commit()
        assert kept.answered_lines(session, row.id) == {1, 2, 3}
        assert kept.open_batches(session) == [row.id]
    assert move(database, row, "in_progress", "finalizing")
    end(database, tmp_path, now(database, row), "completed")
    done = now(database, row)
    assert (done.status, done.total, done.completed, done.failed) == ("completed", 3, 2, 1)
    assert (done.prompt_tokens, done.completion_tokens) == (4, 5)
    assert set(done.times) == {"in_progress", "finalizing", "completed"}
    assert done.output_file_id and done.error_file_id
    assert path_of(tmp_path, done.output_file_id).read_bytes() == b'{"a": 1}\n{"b": 1}\n'
    assert path_of(tmp_path, done.error_file_id).read_bytes() == b'{"c": 1}\n'
    with database.reading() as session:
        assert kept.answered_lines(session, row.id) == set() and kept.open_batches(session) == []


def test_a_cancellation_is_not_written_over(database: Database, tmp_path: Path) -> None:
    row = begun(database, tmp_path)
    before = now(database, row)
    with database.session() as session:
        assert kept.cancel_batch(session, f"batch_{row.id}", ALL, ANN, NOW).id == row.id
        session.commit()
    end(database, tmp_path, before, "failed")
    assert now(database, row).status == "cancelling"
    assert len([path for path in (tmp_path / "files").iterdir() if path.is_file()]) == 1
    end(database, tmp_path, now(database, row), "cancelled")
    assert now(database, row).status == "cancelled"
    with database.session() as session, pytest.raises(ConflictError, match="is cancelled"):
        kept.cancel_batch(session, row.id, ALL, ANN, NOW)


def test_stored_completions_are_listed_by_key_model_and_metadata_of_now(database: Database) -> None:
    ids = [new_id(datetime.fromtimestamp(NOW.timestamp() + second, UTC)) for second in range(4)]

    def record(place: int, **options: Any) -> InferenceRecord:
        known: dict[str, Any] = {
            "model": "m",
            "version": "1.0",
            "status": 200,
            "latency_ms": 1.0,
            "listed": True,
        }
        body = {"id": ids[place], "created": NOW.timestamp() + place, "metadata": {"n": str(place % 2)}}
        return InferenceRecord(**{**known, **body, **options, "request": json.dumps({})})

    with database.session() as session:
        rows = [record(0), record(1, key_id="key"), record(2, model="other"), record(3, listed=False)]
        store(session, rows, 0)
        change_metadata(session, ids[1], {"n": "0"}, 0.0)
        change_metadata(session, ids[1], {"n": "2"}, 1.0)
        session.commit()

    def found(session: Session, reader: Reader, **wanted: Any) -> list[str]:
        return [one.row.id for one in list_completions(session, reader, Wanted(**wanted))[0]]

    everybody = Reader(None, None, True)
    with database.reading() as session:
        assert found(session, everybody) == ids[:3]
        assert found(session, everybody, order="desc", after=ids[2]) == ids[1::-1]
        assert found(session, everybody, metadata={"n": "0"}) == [ids[0], ids[2]]
        assert found(session, everybody, metadata={"n": "2"}) == [ids[1]]
        assert found(session, everybody, metadata={"n": "1"}) == []
        assert found(session, everybody, model="m@1.0") == ids[:2]
        assert found(session, Reader("key", None, False)) == [ids[1]]
        assert found(session, Reader(None, None, False)) == [ids[0], ids[2]]
        assert found(session, Reader(None, {"other"}, True)) == [ids[2]]
