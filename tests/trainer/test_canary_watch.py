"""What a person promoted is watched too, where the model's mode is `auto`."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from feedback.access.audit import Actor
from feedback.registry.canaries import begin_canary, end_canary, open_canaries
from feedback.registry.models import get_model, move_champion
from feedback.settings import Mode
from feedback.storage.tables import Canary
from tests.trainer.test_canary_keeper import keeper, read, served, world
from tests.trainer.world import MODEL, World
from trainer.canary_keeper import CanaryKeeper
from trainer.cycle import run_cycle

__all__ = ["world"]


def proposed(world: World) -> None:
    """1.0 waits for a person."""
    cycle = run_cycle(world.workshop(), world.record(world.request("propose")), pauses=())
    assert cycle.decision == "proposed"


def promoted(world: World) -> None:
    """A person makes 1.0 the champion."""
    proposed(world)
    with world.database.session() as session:
        move_champion(session, MODEL, "1.0", "promotion", "I say so", "ada", None, world.clock())
        session.commit()


def comparisons(world: World) -> list[Canary]:
    with world.database.reading() as session:
        return open_canaries(session)


@pytest.mark.parametrize(
    ("mode", "holdback", "watched"),
    [("auto", 0.2, True), ("auto", 0.0, False), ("propose", 0.2, False), ("report", 0.2, False)],
)
def test_a_persons_promotion_is_watched_where_the_loop_may_move_the_champion(
    world: World, mode: Mode, holdback: float, watched: bool
) -> None:
    promoted(world)
    model = msgspec.structs.replace(world.settings.model[0], mode=mode)
    canary = msgspec.structs.replace(world.settings.canary, holdback=holdback)
    world.settings = msgspec.structs.replace(world.settings, model=[model], canary=canary)
    keeper(world).look_at_all()
    told = [(row.kind, row.version, row.against, row.share) for row in comparisons(world)]
    assert told == ([("watch", "1.0", "base", 0.2)] if watched else [])


def test_quality_that_falls_after_a_persons_promotion_rolls_back_and_that_is_not_watched(
    world: World,
) -> None:
    promoted(world)
    keeper(world).look_at_all()
    served(world, 900, lambda version: 2.0 if version == "1.0" else 3.5)
    looking = keeper(world)
    for _ in range(2):
        looking.look_at_all()
    _, watch, champion = read(world)
    assert (watch.kind, watch.state, champion) == ("watch", "rolled_back", "base")
    assert comparisons(world) == []


def comparisons_after_a_person_ended_the_watch(world: World, looking: CanaryKeeper) -> list[Canary]:
    """What goes on after a look that began a watch, its end by a person, and another look."""
    looking.look_at_all()
    (watch,) = comparisons(world)
    with world.database.session() as session:
        end_canary(session, watch.id, "withdrawn", "enough", Actor("ada"), world.clock())
        session.commit()
    looking.look_at_all()
    return comparisons(world)


def test_a_watch_that_a_person_ended_does_not_begin_again(world: World) -> None:
    promoted(world)
    looking = keeper(world)
    assert comparisons_after_a_person_ended_the_watch(world, looking) == []


def test_a_watch_begins_once_though_the_loops_clock_is_behind_the_servers(world: World) -> None:
    promoted(world)
    at = world.now
    looking = keeper(world)
    world.now = at - timedelta(seconds=5)
    assert comparisons_after_a_person_ended_the_watch(world, looking) == []


def test_a_promotion_of_long_ago_is_not_watched_afterwards(world: World) -> None:
    promoted(world)
    world.now += timedelta(hours=world.settings.canary.watch_hours)
    keeper(world).look_at_all()
    assert comparisons(world) == []


def test_after_a_persons_canary_nobody_who_had_the_challenger_is_held_back(world: World) -> None:
    proposed(world)
    with world.database.session() as session:
        canary = begin_canary(session, MODEL, "1.0", 0.5, 1.0, "see", Actor("ada"), None, world.clock())
        salt = canary.salt
        session.commit()
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    keeper(world).look_at_all()
    (watch,) = comparisons(world)
    assert (watch.kind, watch.version, watch.salt, watch.cycle_id) == ("watch", "1.0", salt, None)
    with world.database.reading() as session:
        assert get_model(session, MODEL).champion == "1.0"
