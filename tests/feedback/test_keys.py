"""API keys: shown once, kept as hashes, closed for good."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from feedback.access.keys import (
    LOOP_KEY,
    create_key,
    ensure_loop_key,
    hash_secret,
    list_keys,
    read_loop_key,
    revoke_key,
)
from feedback.errors import BadFieldError, NotFoundError
from feedback.storage.database import Database
from tests.feedback.records import NOW


def test_a_key_is_kept_as_a_hash_only(database: Database) -> None:
    with database.session() as session:
        key, secret = create_key(session, ["feedback", "infer"], "web-shop", ["b", "a", "a"], NOW)
        session.commit()
    assert re.fullmatch(r"sl-[A-Za-z0-9_-]{43}", secret)
    with database.reading() as session:
        (stored,) = list_keys(session)
    assert stored.secret_hash == hash_secret(secret)
    assert secret not in repr(stored)
    assert (stored.scopes, stored.owner, stored.models) == (["infer", "feedback"], "web-shop", ["a", "b"])
    assert (stored.internal, stored.created, stored.revoked) == (False, NOW.timestamp(), None)
    assert key.id == stored.id


def test_no_two_keys_are_alike(sqlite_database: Database) -> None:
    with sqlite_database.session() as session:
        secrets = {create_key(session, ["infer"], "", None, NOW)[1] for _ in range(20)}
        session.commit()
    assert len(secrets) == 20


@pytest.mark.parametrize(("scopes", "named"), [(["infer", "root"], "root"), ([], "none given")])
def test_a_scope_that_there_is_not_is_named(scopes: list[str], named: str, sqlite_database: Database) -> None:
    with sqlite_database.session() as session, pytest.raises(BadFieldError, match=f"scopes: {named}.*infer"):
        create_key(session, scopes, "", None, NOW)


def test_a_revoked_key_stays_listed_with_the_time_it_was_closed(database: Database) -> None:
    with database.session() as session:
        key, _ = create_key(session, ["admin"], "", None, NOW)
        session.commit()
        revoke_key(session, key.id, NOW + timedelta(hours=1))
        session.commit()
        revoke_key(session, key.id, NOW + timedelta(hours=2))
        session.commit()
    with database.reading() as session:
        assert [one.revoked for one in list_keys(session)] == [(NOW + timedelta(hours=1)).timestamp()]


def test_revoking_what_there_is_not_says_where_to_look(database: Database) -> None:
    with database.session() as session, pytest.raises(NotFoundError, match="keys list"):
        revoke_key(session, "none", NOW)


def test_the_loops_key_is_made_once_and_only_its_owner_may_read_it(
    database: Database, tmp_path: Path
) -> None:
    assert read_loop_key(tmp_path) is None
    secret = ensure_loop_key(database, tmp_path, NOW)
    assert ensure_loop_key(database, tmp_path, NOW) == secret == read_loop_key(tmp_path)
    assert (tmp_path / LOOP_KEY).stat().st_mode & 0o777 == 0o600
    with database.reading() as session:
        (key,) = list_keys(session)
    assert (key.internal, key.scopes, key.secret_hash) == (True, ["admin"], hash_secret(secret))


def test_processes_that_start_together_enter_one_loop_key(database: Database, tmp_path: Path) -> None:
    secrets: list[str] = []

    def start() -> None:
        secrets.append(ensure_loop_key(database, tmp_path, NOW))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 6 and len(set(secrets)) == 1
    with database.reading() as session:
        assert len(list_keys(session)) == 1


def test_the_loops_key_is_entered_again_in_a_new_database(database: Database, tmp_path: Path) -> None:
    (tmp_path / LOOP_KEY).write_text("sl-of-an-earlier-database\n")
    assert ensure_loop_key(database, tmp_path, NOW) == "sl-of-an-earlier-database"
    with database.reading() as session:
        assert [key.secret_hash for key in list_keys(session)] == [hash_secret("sl-of-an-earlier-database")]


def test_a_revoked_loop_key_is_replaced_at_the_next_start(database: Database, tmp_path: Path) -> None:
    first = ensure_loop_key(database, tmp_path, NOW)
    with database.session() as session:
        revoke_key(session, list_keys(session)[0].id, NOW)
        session.commit()
    second = ensure_loop_key(database, tmp_path, NOW + timedelta(hours=1))
    assert second != first
    assert read_loop_key(tmp_path) == second
    with database.reading() as session:
        assert [key.revoked is None for key in list_keys(session)] == [False, True]
