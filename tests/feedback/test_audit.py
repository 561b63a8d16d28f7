"""The audit log: append-only, and one with the act that it tells of."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from feedback.access.audit import ACTS, Actor, list_audit, note
from feedback.access.keys import create_key, ensure_loop_key, list_keys
from feedback.errors import BadFieldError
from feedback.registry.models import ensure_models, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Model, Settings
from feedback.storage.database import Database
from tests.feedback.records import NOW

ANN = Actor("ann", "a key's id")


def test_acts_are_listed_newest_first_page_by_page(database: Database) -> None:
    with database.session() as session:
        for position, act in enumerate(ACTS):
            note(session, ANN, act, f"thing {position}", NOW + timedelta(seconds=position), why="because")
        session.commit()
    with database.reading() as session:
        seen, cursor = [], None
        while True:
            page = list_audit(session, None, 3, cursor)
            seen += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        assert [row.act for row in seen] == list(reversed(ACTS))
        (one,) = list_audit(session, "key.revoke", 50, None).items
        with pytest.raises(BadFieldError, match="next_cursor"):
            list_audit(session, None, 3, "x")
    assert (one.actor, one.key_id, one.subject, one.details) == (
        "ann",
        "a key's id",
        f"thing {ACTS.index('key.revoke')}",
        {"why": "because"},
    )


@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'somebody else'", "DELETE FROM audit"])
def test_the_database_refuses_to_change_or_delete_an_act(database: Database, change: str) -> None:
    with database.session() as session:
        note(session, ANN, "case.drop", "a case", NOW)
        session.commit()
    with pytest.raises(IntegrityError, match="append-only"), database.session() as session:
        session.connection().execute(text(change))
        session.commit()
    with database.reading() as session:
        assert [row.actor for row in list_audit(session, None, 9, None).items] == ["ann"]


def test_an_act_that_was_taken_back_leaves_no_trace(sqlite_database: Database) -> None:
    with sqlite_database.session() as session:
        key, _ = create_key(session, ["infer"], "web", None, NOW)
        note(session, ANN, "key.create", key.id, NOW)
        session.rollback()
    with sqlite_database.reading() as session:
        assert (list_keys(session), list_audit(session, None, 9, None).items) == ([], [])


def test_what_starloop_does_by_itself_is_there_too(sqlite_database: Database, tmp_path: Path) -> None:
    secret = ensure_loop_key(sqlite_database, tmp_path, NOW)
    with sqlite_database.session() as session:
        ensure_models(session, Settings(), NOW)
        reserve_version(session, "assistant", "c", None, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", "1.0", "registered")
        move_champion(session, "assistant", "1.0", "promotion", "why", "ann", None, NOW)
        later = NOW + timedelta(seconds=1)
        ensure_models(session, Settings(model=[Model(name="assistant", base="acme/other")]), later)
        session.commit()
    with sqlite_database.reading() as session:
        newest, first = list_audit(session, None, 9, None).items
    assert (first.actor, first.act) == ("gateway", "key.create")
    assert (newest.actor, newest.act, newest.subject) == ("configuration", "champion.rollback", "assistant")
    assert newest.details["from"] == "1.0" and "base changed" in newest.details["reason"]
    assert secret not in repr([first.details, newest.details])
