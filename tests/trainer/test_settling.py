"""Moving the champion at the end of a cycle, beside people who move it too and over a line that loses answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import Session, col, delete, select

from feedback.errors import UnavailableError
from feedback.registry.canaries import open_canaries
from feedback.registry.cycles import cancel_cycle
from feedback.registry.models import get_model, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Canary as CanarySettings
from feedback.settings import Mode
from feedback.storage.database import Database
from feedback.storage.tables import Case, Cycle, Move
from tests.trainer.world import MODEL, World, promising
from trainer.cycle import run_cycle
from trainer.gateway import Gateway
from trainer.record import CycleRecord
from trainer.steps import STEPS


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return promising(sqlite_database, tmp_path)


def run(world: World, mode: Mode = "auto") -> Cycle:
    return run_cycle(world.workshop(), world.record(world.request(mode)), pauses=())


def after(world: World, last: str, meanwhile: Callable[[Session], None], mode: Mode = "auto") -> Cycle:
    """A cycle after whose step `last` something else happens."""
    record, workshop = world.record(world.request(mode)), world.workshop()
    for name, step in STEPS.items():
        record.begin(name)
        step(workshop, record)
        if name == last:
            break
    with world.database.session() as session:
        meanwhile(session)
        session.commit()
    return run_cycle(world.workshop(), world.record(record.row.id), pauses=())


def moves(world: World) -> list[tuple[str, str | None]]:
    with world.database.reading() as session:
        rows = session.exec(select(Move).order_by(col(Move.position)))
        return [(row.kind, row.to_version) for row in rows]


@pytest.mark.parametrize("share", [0, 0.2], ids=["promotion", "canary"])
def test_a_champion_that_a_person_moves_while_the_engines_are_warmed_is_left_where_it_is(
    world: World, share: float
) -> None:
    world.settings = msgspec.structs.replace(world.settings, canary=CanarySettings(share=share, holdback=0))

    def meanwhile(session: Session) -> None:
        base = world.settings.model[0].base
        reserve_version(session, MODEL, None, None, base, "revision", "other", "by hand", {}, world.clock())
        mark_version(session, MODEL, "1.1", "registered")
        move_champion(session, MODEL, "1.1", "promotion", "by hand", "a person", None, world.clock())
        session.commit()

    world.server.before_the_move = meanwhile
    cycle = run(world)
    assert cycle.decision == "inconclusive" and "moved from base to 1.1" in (cycle.reason or "")
    assert moves(world) == [("promotion", "1.1")]


@pytest.mark.parametrize("again", [False, True], ids=["rolled back", "rolled back and promoted by a person"])
def test_a_promotion_whose_answer_is_lost_is_not_made_again_over_a_persons_rollback(
    world: World, again: bool
) -> None:
    def meanwhile(session: Session) -> None:
        if get_model(session, MODEL).champion is None:
            return
        world.server.loses_answers = False
        move_champion(session, MODEL, None, "rollback", "bad", "a person", None, world.clock())
        if again:
            cycle_id = world.server.promotions[0]["cycle_id"]
            move_champion(session, MODEL, "1.0", "promotion", "why", "a person", cycle_id, world.clock())
        session.commit()

    world.patience = 5.0
    world.server.loses_answers = True
    world.server.before_the_move = meanwhile
    cycle = run(world)
    assert len(world.server.promotions) == 2
    assert (cycle.state, cycle.decision) == ("done", "promoted")
    assert moves(world) == [("promotion", "1.0"), ("rollback", None), *[("promotion", "1.0")] * again]


@pytest.mark.parametrize("golden", [True, False], ids=["", "without a golden set"])
def test_what_was_compared_with_another_champion_is_not_proposed(world: World, golden: bool) -> None:
    def meanwhile(session: Session) -> None:
        base = world.settings.model[0].base
        reserve_version(session, MODEL, None, None, base, "revision", "other", "by hand", {}, world.clock())
        mark_version(session, MODEL, "1.1", "registered")
        move_champion(session, MODEL, "1.1", "promotion", "by hand", "a person", None, world.clock())

    if not golden:
        with world.database.session() as session:
            session.exec(delete(Case))
            session.commit()
    cycle = after(world, "gate", meanwhile, "propose")
    assert cycle.decision == "inconclusive" and "moved from base to 1.1" in (cycle.reason or "")
    assert moves(world) == [("promotion", "1.1")]


@pytest.mark.parametrize("mode", ["propose", "auto"])
@pytest.mark.parametrize("last", ["train", "gate"])
def test_a_version_that_a_person_promotes_before_its_cycle_ends_is_told_as_promoted(
    world: World, last: str, mode: Mode
) -> None:
    def meanwhile(session: Session) -> None:
        move_champion(session, MODEL, "1.0", "promotion", "now", "a person", None, world.clock())

    cycle = after(world, last, meanwhile, mode)
    assert (cycle.state, cycle.decision) == ("done", "promoted")
    assert "somebody promoted assistant@1.0" in (cycle.reason or "")
    assert moves(world) == [("promotion", "1.0")] and world.server.promotions == []
    compared = cycle.result is not None and "gate" in cycle.result
    assert compared == (last != "train") and ("base" in (cycle.reason or "")) == compared


class KilledError(BaseException):
    """What `kill -9` looks like from inside."""


def test_a_cycle_that_is_cancelled_after_its_move_ends_as_promoted_and_is_watched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KilledError

    world.settings = msgspec.structs.replace(world.settings, canary=CanarySettings(share=0, holdback=0.05))
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(CycleRecord, "finish", die)
        run(world)
    with world.database.session() as session:
        cycle_id = session.exec(select(Cycle.id)).one()
        cancel_cycle(session, cycle_id, world.clock())
        session.commit()
    cycle = run_cycle(world.workshop(), world.record(cycle_id), pauses=())
    assert (cycle.state, cycle.decision) == ("done", "promoted"), cycle.reason
    with world.database.reading() as session:
        (watch,) = open_canaries(session)
    assert (watch.kind, watch.version, watch.against) == ("watch", "1.0", "base")
    assert moves(world) == [("promotion", "1.0")]


def test_a_move_whose_answer_never_came_ends_the_cycle_as_promoted_and_is_watched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Gateway.promote

    def lost(*arguments: Any, **named: Any) -> None:
        moved(*arguments, **named)
        raise UnavailableError("the server did not answer")

    monkeypatch.setattr(Gateway, "promote", lost)
    world.settings = msgspec.structs.replace(world.settings, canary=CanarySettings(share=0, holdback=0.05))
    cycle = run(world)
    assert (cycle.state, cycle.decision) == ("done", "promoted"), cycle.reason
    with world.database.reading() as session:
        (watch,) = open_canaries(session)
    assert watch.kind == "watch" and moves(world) == [("promotion", "1.0")]


def test_a_canary_is_told_as_it_was_begun_though_the_settings_changed_before_the_loop_went_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KilledError

    def settings(share: float, hours: float) -> None:
        canary = CanarySettings(share=share, holdback=0, hours=hours)
        world.settings = msgspec.structs.replace(world.settings, canary=canary)

    settings(0.2, 24.0)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(CycleRecord, "leave_to_users", die)
        run(world)
    settings(0, 99.0)
    with world.database.reading() as session:
        cycle_id = session.exec(select(Cycle.id)).one()
    cycle = run_cycle(world.workshop(), world.record(cycle_id), pauses=())
    assert cycle.state == "canary" and moves(world) == []
    assert "20% of the users get assistant@1.0 for at most 24 h" in cycle.steps[-2]["outcome"]
