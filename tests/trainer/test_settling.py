"""Moving the champion at the end of a cycle, beside people who move it too and over a line that loses answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlmodel import Session, col, select

from feedback.registry.models import get_model, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, Move
from tests.trainer.world import MODEL, World
from trainer.cycle import run_cycle


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    """A cycle would promote 1.0."""
    made = World(sqlite_database, tmp_path)
    made.users_correct(120)
    made.people_confirm(old=50, new=50)
    return made


def run(world: World) -> Cycle:
    return run_cycle(world.workshop(), world.record(world.request()), pauses=())


def moves(world: World) -> list[tuple[str, str | None]]:
    with world.database.reading() as session:
        rows = session.exec(select(Move).order_by(col(Move.position)))
        return [(row.kind, row.to_version) for row in rows]


def test_a_champion_that_a_person_moves_while_the_engines_are_warmed_is_left_where_it_is(
    world: World,
) -> None:
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
