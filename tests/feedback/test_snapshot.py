"""The gateway's view of the registry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from feedback.access.keys import create_key, ensure_loop_key, hash_secret, revoke_key
from feedback.registry.models import ensure_models, move_champion
from feedback.registry.snapshot import Snapshot, load_snapshot
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Model, Settings
from feedback.storage.database import Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def taken(database: Database) -> Snapshot:
    with database.reading() as session:
        return load_snapshot(session)


def test_versions_can_be_asked_for_once_published_and_until_retired(database: Database) -> None:
    paths = {
        "1.0": [],
        "1.1": ["registered"],
        "1.2": ["registered", "rejected"],
        "1.3": ["registered"],
        "1.4": ["registered", "retired"],
    }
    with database.session() as session:
        ensure_models(session, Settings(), NOW)
        for number, states in paths.items():
            reserve_version(session, "assistant", number, None, "starter", "r", number, "", {}, NOW)
            for state in states:
                mark_version(session, "assistant", number, state)  # type: ignore[arg-type]
        move_champion(session, "assistant", "1.3", "promotion", "why", "ann", None, NOW)
        session.commit()
    route = taken(database).models["assistant"]
    assert route.versions == {"1.1", "1.2", "1.3"}
    assert (route.champion, route.base, route.moves) == ("1.3", "starter", 1)


def test_versions_of_a_base_that_the_model_had_before_cannot_be_asked_for(sqlite_database: Database) -> None:
    with sqlite_database.session() as session:
        ensure_models(session, Settings(), NOW)
        reserve_version(session, "assistant", "c", None, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", "1.0", "registered")
        ensure_models(session, Settings(model=[Model(name="assistant", base="acme/other")]), NOW)
        session.commit()
    assert taken(sqlite_database).models["assistant"].versions == frozenset()


def test_a_revoked_key_is_gone_but_the_door_stays_shut(database: Database) -> None:
    with database.session() as session:
        key, secret = create_key(session, ["infer"], "web", ["assistant"], NOW)
        session.commit()
    grant = taken(database).keys[hash_secret(secret)]
    assert (grant.id, grant.owner, grant.scopes, grant.models) == (key.id, "web", {"infer"}, {"assistant"})
    with database.session() as session:
        revoke_key(session, key.id, NOW)
        session.commit()
    snapshot = taken(database)
    assert snapshot.keys == {} and snapshot.any_key


def test_the_loops_own_key_works_but_does_not_shut_the_door(
    sqlite_database: Database, tmp_path: Path
) -> None:
    secret = ensure_loop_key(sqlite_database, tmp_path, NOW)
    snapshot = taken(sqlite_database)
    assert hash_secret(secret) in snapshot.keys and not snapshot.any_key
