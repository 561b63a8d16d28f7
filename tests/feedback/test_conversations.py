"""What gateways tell each other about conversations."""

from __future__ import annotations

import time
from typing import Any

import pytest

from feedback.storage.conversations import (
    Heard,
    conversation_key,
    forget_conversations,
    heard_since,
)
from feedback.storage.database import Database
from feedback.storage.upsert import store
from tests.feedback.records import inference


def bring(database: Database, **fields: Any) -> None:
    with database.session() as session:
        store(session, [inference(conversation="thread", **fields)], 0)
        session.commit()


def heard(database: Database, since: float = 0.0, limit: int = 10) -> list[Heard]:
    with database.reading() as session:
        return heard_since(session, since, limit)


def test_a_stored_answer_tells_its_conversations_version(database: Database) -> None:
    before = time.time()
    bring(database, model="assistant", version="1.0", created=10.0)
    (row,) = heard(database)
    assert row[:3] == (conversation_key("assistant", "thread"), "1.0", 10.0)
    assert before <= row.stored <= time.time()
    assert heard(database, since=row.stored) == []


def test_a_follow_up_on_the_same_version_writes_nothing_and_another_version_does(database: Database) -> None:
    bring(database, version="1.0", created=10.0)
    first = heard(database)
    bring(database, version="1.0", created=20.0)
    assert heard(database) == first
    bring(database, version="1.1", created=30.0)
    bring(database, version="1.2", created=5.0)  # out of a journal that was left behind
    assert [(row.version, row.created) for row in heard(database)] == [("1.1", 30.0)]


@pytest.mark.parametrize(
    "fields", [{"status": 502}, {"error": "cut"}, {"purpose": "evaluation"}, {"pinned": True}]
)
def test_what_binds_no_conversation_is_not_told(sqlite_database: Database, fields: dict[str, Any]) -> None:
    bring(sqlite_database, **fields)
    assert heard(sqlite_database) == []


def test_of_too_many_the_newest_are_heard_and_old_ones_are_forgotten(sqlite_database: Database) -> None:
    for number in range(3):
        with sqlite_database.session() as session:
            store(session, [inference(conversation=f"{number}", created=float(number))], 0)
            session.commit()
    assert [row.created for row in heard(sqlite_database, limit=2)] == [1.0, 2.0]
    with sqlite_database.session() as session:
        forget_conversations(session, heard(sqlite_database, limit=1)[0].stored)
        session.commit()
    assert [row.created for row in heard(sqlite_database)] == [2.0]
