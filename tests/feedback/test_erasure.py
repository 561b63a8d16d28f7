"""Erasure and retention in the record: interrupted anywhere they end in the same state, and what is frozen or another's
stands. What a running gateway adds is tested in `tests/server/test_erasure.py`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlmodel import Session, select

from feedback.access.audit import Actor
from feedback.datasets.failures import triage_model
from feedback.datasets.files import check_files
from feedback.datasets.freeze import build_dataset, read_rows
from feedback.datasets.groups import Group, KnownPrompts, assign_groups, prompt_hash
from feedback.errors import BadFieldError, ConflictError, UnavailableError
from feedback.ids import new_id
from feedback.privacy.erasure import erase_user
from feedback.privacy.retention import expire
from feedback.privacy.scrub import scrub_journals
from feedback.registry.models import move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Capture
from feedback.storage.database import Database
from feedback.storage.exclusive import alone
from feedback.storage.journal import Journal
from feedback.storage.removal_tables import Erasure, Tombstone
from feedback.storage.tables import (
    Case,
    Cycle,
    DatasetVersion,
    Example,
    Failure,
    Feedback,
    Inference,
    PromptGroup,
)
from feedback.storage.upsert import store
from feedback.storage.verify import verify
from tests.feedback.records import feedback, inference
from tests.feedback.world import NOW, OTHER, RIGHT, World, settings_for

LATER = NOW + timedelta(hours=2)
ME = Actor("tester")


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    """Ann and Bob, each with corrections; a dataset of both, and a champion trained on it."""
    world = World(sqlite_database, settings_for(tmp_path))
    for name in ("ann", "bob"):
        for topic in (
            "where is the money for my refund",
            "please cancel it",
            "the lamp arrived in two pieces",
        ):
            world.correct(f"{name * 9} {topic}", RIGHT, name)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        session.commit()
    dataset = build_dataset(
        world.database, world.settings, "assistant", new_id(NOW), ("replay", "size", "raters"), NOW
    )
    with world.database.session() as session:
        version = reserve_version(session, "assistant", None, dataset.id, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", version.number, "registered")
        move_champion(session, "assistant", version.number, "promotion", "won", "gate", None, NOW)
        session.commit()
    return world


def _erase(world: World, user: str = "ann", database: Database | None = None) -> Any:
    return erase_user(database or world.database, world.settings, user, ME, lambda: LATER, patience=1.0)


def _state(world: World) -> dict[str, Any]:
    """What must not depend on how often the erasure was interrupted."""
    with world.database.reading() as session:
        (dataset,) = session.exec(select(DatasetVersion)).all()
        return {
            "inferences": sorted(session.exec(select(Inference.id))),
            "feedback": sorted(session.exec(select(Feedback.id))),
            "failures": sorted(session.exec(select(Failure.inference_id))),
            "tombstones": sorted(session.exec(select(Tombstone.id))),
            "examples": sorted((row.position, row.erased is None) for row in session.exec(select(Example))),
            "prompts": sorted(
                (row.prompt_hash, row.group_key, row.text) for row in session.exec(select(PromptGroup))
            ),
            "rows": [row["id"] for row in read_rows(world.settings.directory, dataset.id, "train")],
            "hash": dataset.content_hash,
            "whole": check_files(world.settings.directory, dataset.id, dataset.content_hash),
            "erasures": [(row.finished is not None, row.counts) for row in session.exec(select(Erasure))],
            "cycles": len(session.exec(select(Cycle)).all()),
            "verified": verify(world.database, world.settings.directory).sound,
        }


class _Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class _Dying(Database):
    """A database whose process dies before, or right after, the n-th transaction commits."""

    def __init__(self, url: str, at: int, after: bool) -> None:
        super().__init__(url)
        self._left = at
        self._after = after

    @contextmanager
    def session(self) -> Iterator[Session]:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise _Killed
        with super().session() as session:
            yield session
        if self._left == 0:
            raise _Killed


def test_killed_at_any_transaction_and_run_again_it_ends_in_the_same_state(
    world: World, tmp_path: Path
) -> None:
    world.database.close()
    origin, place = tmp_path.with_name(f"{tmp_path.name}-origin"), tmp_path
    shutil.copytree(place, origin)
    url = f"sqlite:///{place / 'starloop.sqlite'}"
    _erase(world)
    wanted = _state(world)
    assert wanted["verified"] and wanted["whole"] and len(wanted["inferences"]) == 3
    killed = 0
    for at in range(1, 40):
        for after in (False, True):
            world.database.close()
            shutil.rmtree(place)
            shutil.copytree(origin, place)
            world.database = Database(url)
            dying = _Dying(url, at, after)
            try:
                _erase(world, database=dying)
            except _Killed:
                killed += 1
            finally:
                dying.close()
            _erase(world)
            found = _state(world)
            assert {**found, "erasures": found["erasures"][:1]} == wanted, (at, after)
        if killed < 2 * at:
            break
    assert killed > 8


def test_sides_and_groups_stay_when_a_prompts_text_goes(world: World) -> None:
    prompt = f"{'ann' * 9} please cancel it"
    with world.database.reading() as session:
        before = {
            row.prompt_hash: Group(row.group_key, row.unused) for row in session.exec(select(PromptGroup))
        }
    _erase(world)
    with world.database.session() as session:
        assert session.get_one(PromptGroup, prompt_hash(prompt)).text == ""
        again = assign_groups(session, [prompt], world.settings.dataset)
        assert again[prompt_hash(prompt)] == before[prompt_hash(prompt)]
        # Prompts without a text are like nothing, not like each other.
        fresh = assign_groups(
            session, ["", "x"], world.settings.dataset, KnownPrompts(world.settings.dataset)
        )
        assert fresh[prompt_hash("x")].key == prompt_hash("x")


def test_feedback_on_somebody_elses_answer_goes_and_the_answer_stays(world: World) -> None:
    asked = world.ask("bob asks something new", user="bob")
    world.say(asked, 1, OTHER, "ann", comment="annwords")
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        session.add(
            Case(
                id=new_id(NOW),
                model="assistant",
                suite="golden",
                state="confirmed",
                inference_id=asked,
                prompt_hash="p",
                group_key="p",
                messages=[{"role": "user", "content": "bob asks something new"}],
                answer=OTHER,
                created=0.0,
            )
        )
        session.commit()
    _erase(world)
    with world.database.reading() as session:
        assert session.get(Inference, asked) is not None
        failure = session.exec(select(Failure).where(Failure.inference_id == asked)).one()
        assert (failure.state, failure.correction, failure.resolved_by) == ("quarantine", None, None)
        case = session.exec(select(Case)).one()
        assert (case.state, case.answer, len(case.messages)) == ("drawn", None, 1)
        assert set(session.exec(select(Feedback.rater))) == {"bob"}


def test_the_successor_of_a_champion_that_knows_too_much_learns_the_rest_afresh(world: World) -> None:
    _erase(world)
    again = build_dataset(world.database, world.settings, "assistant", new_id(LATER), ("replay",), LATER)
    assert again.manifest["counts"]["new"] == 3


def test_a_record_that_was_erased_does_not_come_back_and_what_is_said_about_it_neither(world: World) -> None:
    record = inference(user="ann")
    with world.database.session() as session:
        store(session, [record], 0)
        session.commit()
    _erase(world)
    with world.database.session() as session:
        assert store(session, [record, feedback(record.id, rater="bob")], 0) == 0
        session.commit()
    assert verify(world.database, world.settings.directory).sound


@pytest.mark.parametrize("change", ["erased = erased + 1", "kind = 'example'", "id = 'x'", "signature = 'x'"])
def test_a_tombstone_that_was_touched_proves_nothing(change: str, world: World) -> None:
    _erase(world)
    with world.database.session() as session:
        one = session.exec(select(Tombstone.id).where(Tombstone.kind == "inference")).first()
        session.connection().execute(text(f"UPDATE tombstone SET {change} WHERE id = :id"), {"id": one})
        session.commit()
    found = verify(world.database, world.settings.directory)
    assert found.missing == 1 and found.corrupt >= 1


def test_a_row_that_is_simply_deleted_is_missing(world: World) -> None:
    _erase(world)
    with world.database.session() as session:
        session.connection().execute(text("DELETE FROM feedback WHERE id = (SELECT min(id) FROM feedback)"))
        session.commit()
    assert verify(world.database, world.settings.directory).missing == 1


def test_who_does_not_let_go_is_waited_for_and_then_named(world: World, tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW)  # of a gateway whose drainer hangs
    journal.append([inference(user="ann")])
    with pytest.raises(UnavailableError, match="1 records stand in the journals"):
        _erase(world)
    with pytest.raises(UnavailableError, match="has not brought all of it"):
        scrub_journals(tmp_path, 0.1)
    journal.close()
    assert _erase(world).counts["inferences"] == 4


def test_one_removal_at_a_time_and_none_without_a_name(world: World) -> None:
    with alone(world.settings.directory), pytest.raises(ConflictError, match="another removal"):
        _erase(world)
    with pytest.raises(BadFieldError, match="user"):
        _erase(world, " ")


# -- retention


def _expire(world: World, days: int, now: datetime) -> Any:
    capture = Capture(retention_days=days)
    return expire(world.database, msgspec.structs.replace(world.settings, capture=capture), ME, now)


def test_everything_is_kept_for_ever_unless_told_otherwise(world: World) -> None:
    assert _expire(world, 0, NOW + timedelta(days=9999)).before is None
    with world.database.reading() as session:
        assert len(session.exec(select(Inference)).all()) == 6


def test_what_is_too_old_goes_with_its_feedback_and_what_is_frozen_stays(world: World) -> None:
    world.ask("a prompt that nobody froze", user="ann")
    world.write()
    with world.database.session() as session:
        assign_groups(session, ["a prompt that nobody froze"], world.settings.dataset)
        session.commit()
    young = NOW + timedelta(days=29)
    with world.database.session() as session:
        store(session, [inference(29 * 86_400.0, user="cleo")], 0)
        session.commit()

    done = _expire(world, 30, young + timedelta(days=2))

    assert done.counts == {"failures": 6, "feedback": 6, "inferences": 7, "prompts": 1}
    with world.database.reading() as session:
        assert session.exec(select(Inference.user)).all() == ["cleo"]
        assert session.exec(select(Failure)).all() == []
        (dataset,) = session.exec(select(DatasetVersion)).all()
        assert check_files(world.settings.directory, dataset.id, dataset.content_hash)
        assert len(list(read_rows(world.settings.directory, dataset.id, "train"))) == 6
        blank = session.exec(select(PromptGroup).where(PromptGroup.text == "")).all()
        assert [row.prompt_hash for row in blank] == [prompt_hash("a prompt that nobody froze")]
    found = verify(world.database, world.settings.directory)
    assert found.sound and found.erased == 13
    assert _expire(world, 30, young + timedelta(days=2)).counts == {}


def test_nothing_of_what_expired_stays_in_the_files(world: World) -> None:
    world.ask("unmistakable expired words " * 50, user="ann")
    world.write()
    _expire(world, 1, NOW + timedelta(days=3))
    body = b"".join(path.read_bytes() for path in world.settings.directory.glob("starloop.sqlite*"))
    assert b"unmistakable expired words" not in body
