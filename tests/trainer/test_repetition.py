"""What was turned down is not trained again; what may still be right, or has changed, is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from feedback.access.audit import Actor
from feedback.registry.models import MoveKind, move_champion
from feedback.registry.rejection import turn_down
from feedback.settings import Canary as CanarySettings
from feedback.settings import Mode
from feedback.storage.database import Database
from feedback.storage.tables import Cycle
from tests.trainer.test_canary_keeper import ANSWER, keeper, read, served
from tests.trainer.world import MODEL, World, promising, talented
from trainer.cycle import run_cycle

PERSON = Actor("a person")


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return promising(sqlite_database, tmp_path)


def run(world: World, *guards_off: str, mode: Mode = "auto") -> Cycle:
    identifier = world.request(mode, guards_off)
    return run_cycle(world.workshop(), world.record(identifier), pauses=())


def rejected(world: World) -> Cycle:
    world.learns = talented("new")
    cycle = run(world)
    assert cycle.decision == "rejected"
    return cycle


def test_what_the_gate_rejected_is_not_trained_again_and_why_is_said(world: World) -> None:
    first = rejected(world)
    again = run(world)
    assert (again.state, again.decision, again.version) == ("done", "skipped", None)
    assert again.reason is not None
    assert again.reason.startswith("assistant@1.0 learned the very same, and was rejected (")
    assert first.reason is not None and first.reason in again.reason
    assert "ask for a cycle without the guard repeat" in again.reason
    assert world.trainings == 1


def test_what_the_gate_said_in_a_report_is_the_gates_word(world: World) -> None:
    world.learns = talented("new")
    assert run(world, mode="report").decision == "reported"
    again = run(world)
    assert again.decision == "skipped"
    assert again.reason is not None and "learned the very same, and was rejected (" in again.reason


def test_a_change_of_the_base_in_the_configuration_turns_nothing_down(world: World) -> None:
    assert run(world).decision == "promoted"
    with world.database.session() as session:
        move_champion(session, MODEL, None, "rollback", "base changed", "configuration", None, world.clock())
        session.commit()
    assert run(world).version == "1.1"


def test_without_that_guard_by_name_it_is(world: World) -> None:
    rejected(world)
    assert run(world, "size").decision == "skipped"
    assert run(world, "repeat").version == "1.1"


def test_new_examples_and_other_settings_make_it_another_training(world: World) -> None:
    rejected(world)
    was = world.settings
    world.settings = msgspec.structs.replace(
        was, training=msgspec.structs.replace(was.training, window="", timeout_seconds=60.0, price_per_hour=1)
    )
    assert run(world).decision == "skipped"  # none of these decides weights
    world.settings = msgspec.structs.replace(was, training=msgspec.structs.replace(was.training, rank=8))
    assert run(world).version == "1.1"
    world.settings = was
    assert run(world).decision == "skipped"
    world.users_correct(50, first=1000)
    assert run(world).version == "1.2"


def test_another_base_under_the_same_name_makes_it_another_training(world: World) -> None:
    rejected(world)
    (world.directory / "tiny-base" / "model.safetensors").write_bytes(b"other weights")
    assert run(world).version == "1.1"


def test_what_users_took_back_in_a_canary_is_not_given_to_them_again(
    sqlite_database: Database, tmp_path: Path
) -> None:
    settings = CanarySettings(share=0.5, holdback=0.2, hours=1.0, watch_hours=2.0)
    world = World(sqlite_database, tmp_path, canary=settings)
    world.users_correct(120)
    world.people_confirm(old=50, new=50)
    assert run(world).state == "canary"
    served(world, 60, lambda _: None, lambda version: ANSWER if version == "base" else "")
    keeper(world).look_at_all()
    assert read(world)[0].decision == "rejected"
    again = run(world)
    assert again.decision == "skipped" and "assistant@1.0" in (again.reason or "")


@dataclass(frozen=True)
class _Fate:
    """What becomes of 1.0 after its promotion."""

    moves: tuple[tuple[str | None, MoveKind], ...]
    skipped: bool


@pytest.mark.parametrize(
    "fate",
    [
        pytest.param(_Fate(((None, "rollback"),), True), id="rolled back"),
        pytest.param(
            _Fate(((None, "rollback"), ("1.0", "promotion"), (None, "promotion")), False), id="gave way"
        ),
    ],
)
def test_what_was_promoted_and_rolled_back_is_not_trained_again_but_what_gave_way_is(
    world: World, fate: _Fate
) -> None:
    assert run(world).decision == "promoted"
    with world.database.session() as session:
        for to, kind in fate.moves:
            move_champion(session, MODEL, to, kind, "bad in the evening", "a person", None, world.clock())
        session.commit()
    again = run(world)
    assert (again.decision == "skipped") is fate.skipped
    assert ("was rolled back (bad in the evening)" in (again.reason or "")) is fate.skipped


def test_a_proposal_is_no_reason_to_skip_until_a_person_has_turned_it_down(world: World) -> None:
    assert run(world, mode="propose").decision == "proposed"
    assert run(world, mode="propose").version == "1.1"
    with world.database.session() as session:
        turn_down(session, MODEL, "1.1", "not our tone", PERSON, world.clock())
        session.commit()
    again = run(world, mode="propose")
    assert again.decision == "skipped" and "assistant@1.1 learned the very same" in (again.reason or "")
    assert "was rejected by a person" in (again.reason or "")


def test_a_version_that_was_only_inconclusive_is_no_reason_to_skip(world: World) -> None:
    world.learns = talented("old")  # no better than the base, and no worse
    assert run(world).decision == "inconclusive"
    assert run(world).version == "1.1"
