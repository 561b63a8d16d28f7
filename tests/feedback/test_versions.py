"""A version's number is given once, for one set of weights (invariant 6)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from feedback.errors import ConflictError, NotFoundError
from feedback.registry.models import ensure_models, move_champion
from feedback.registry.versions import get_version, list_versions, mark_version, reserve_version
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import ModelVersion

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    name = "database" if "database" in request.fixturenames else "sqlite_database"
    with request.getfixturevalue(name).session() as session:
        ensure_models(session, Settings(), NOW)
        session.commit()


def reserve(database: Database, cycle: str, **changed: Any) -> ModelVersion:
    plain: dict[str, Any] = {"base": "starter", "base_revision": "r1", "adapter_hash": f"hash of {cycle}"}
    with database.session() as session:
        version = reserve_version(
            session,
            "assistant",
            cycle,
            dataset_id=None,
            note="added 50 examples",
            facts={"steps": 10},
            now=NOW,
            **(plain | changed),
        )
        session.commit()
        return version


def mark(database: Database, number: str, *states: Any) -> None:
    with database.session() as session:
        for state in states:
            mark_version(session, "assistant", number, state)
        session.commit()


def test_the_first_is_1_0_and_then_the_minor_grows(database: Database) -> None:
    assert [reserve(database, f"c{n}").number for n in range(3)] == ["1.0", "1.1", "1.2"]


def test_numbers_are_ordered_as_numbers(sqlite_database: Database) -> None:
    numbers = [reserve(sqlite_database, f"c{n}").number for n in range(12)]
    assert numbers[-1] == "1.11"
    with sqlite_database.reading() as session:
        assert [one.number for one in list_versions(session, "assistant")] == numbers[::-1]


def test_another_base_other_base_weights_or_a_persons_word_make_a_major(sqlite_database: Database) -> None:
    reserve(sqlite_database, "a")
    assert reserve(sqlite_database, "b", base="acme/other", base_revision="acme/other").number == "2.0"
    assert (
        reserve(sqlite_database, "c", base="acme/other", base_revision="acme/other", major=True).number
        == "3.0"
    )
    assert reserve(sqlite_database, "d").number == "4.0"
    assert reserve(sqlite_database, "e", base_revision="r2").number == "5.0"


def test_a_cycle_that_asks_again_keeps_its_number(database: Database) -> None:
    first = reserve(database, "c1")
    assert reserve(database, "c1").id == first.id
    assert reserve(database, "c2").number == "1.1"


def test_a_cycle_that_comes_back_with_other_weights_is_refused(database: Database) -> None:
    reserve(database, "c1")
    with pytest.raises(ConflictError, match="other weights"):
        reserve(database, "c1", adapter_hash="something else")


def test_a_number_is_not_given_again_after_rejection_or_retirement(sqlite_database: Database) -> None:
    reserve(sqlite_database, "a")
    mark(sqlite_database, "1.0", "registered", "rejected", "retired")
    assert reserve(sqlite_database, "b").number == "1.1"


def test_reservations_at_once_get_different_numbers(database: Database) -> None:
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda n: reserve(database, f"c{n}").number, range(6)))
    assert sorted(numbers) == [f"1.{minor}" for minor in range(6)]


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ([], "promoted"),
        ([], "rejected"),
        (["registered", "promoted"], "rejected"),
        (["registered", "promoted"], "registered"),
        (["retired"], "registered"),
    ],
)
def test_a_version_never_takes_a_step_that_its_life_does_not_have(
    sqlite_database: Database, path: list[str], step: str
) -> None:
    reserve(sqlite_database, "a")
    mark(sqlite_database, "1.0", *path)
    with pytest.raises(ConflictError, match=f"cannot become {step}"):
        mark(sqlite_database, "1.0", step)


def test_marking_twice_changes_nothing(sqlite_database: Database) -> None:
    reserve(sqlite_database, "a")
    mark(sqlite_database, "1.0", "registered", "registered")
    with sqlite_database.reading() as session:
        assert get_version(session, "assistant", "1.0").state == "registered"


def test_the_champion_cannot_be_retired(sqlite_database: Database) -> None:
    reserve(sqlite_database, "a")
    mark(sqlite_database, "1.0", "registered")
    with sqlite_database.session() as session:
        move_champion(session, "assistant", "1.0", "promotion", "why", "ann", None, NOW)
        session.commit()
    with pytest.raises(ConflictError, match="is the champion"):
        mark(sqlite_database, "1.0", "retired")


def test_an_unknown_version_is_told_which_there_are(sqlite_database: Database) -> None:
    reserve(sqlite_database, "a")
    with sqlite_database.reading() as session, pytest.raises(NotFoundError, match=r"it has: 1\.0"):
        get_version(session, "assistant", "2.0")


def test_without_a_cycle_the_same_weights_of_the_same_dataset_keep_their_number(database: Database) -> None:
    by_hand: Any = None
    first = reserve(database, by_hand, adapter_hash="h")
    assert reserve(database, by_hand, adapter_hash="h").id == first.id
    assert reserve(database, by_hand, adapter_hash="other").number == "1.1"
    assert reserve(database, "a cycle", adapter_hash="h").number == "1.2"
    mark(database, "1.0", "retired")
    assert reserve(database, by_hand, adapter_hash="h").number == "1.3", "what was retired stays so"
