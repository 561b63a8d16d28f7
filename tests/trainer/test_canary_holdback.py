"""A watch whose holdback nobody asks: what the champion before answered until then stands in for the form of its answers."""

from __future__ import annotations

from datetime import timedelta

import pytest

from feedback.registry.arms import Arms, unit_of
from feedback.registry.canaries import open_canaries
from tests.trainer.test_canary_keeper import ANSWER, add, begun, keeper, read, served, world
from tests.trainer.world import World
from trainer.guardrails import Tally, guard

__all__ = ["world"]


def watched(world: World, **other: object) -> tuple[str, str, str]:
    """The watch's state and reason and the champion, where the promoted version alone is asked and answers nothing."""
    with world.database.session() as session:
        for number in range(60):
            add(session, world, f"early-{number}", "base", ANSWER, None)
        session.commit()
    world.now += timedelta(minutes=1)
    begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5, lambda _: ANSWER)
    looking = keeper(world)
    looking.look_at_all()
    assert read(world)[1].kind == "watch"
    world.now += timedelta(minutes=1)
    with world.database.session() as session:
        arms = Arms.of(open_canaries(session)[0])
        users = (f"late-{number}" for number in range(400))
        mine = [user for user in users if arms.version_for(unit_of(user, None, "")) == "1.0"]
        for user in mine[:40]:
            add(session, world, user, "1.0", "", None, **other)
        session.commit()
    assert looking._lease.acquire()
    looking.look_at_all()
    _, watch, champion = read(world)
    return watch.state, watch.reason or "", champion


def test_a_version_that_breaks_its_form_is_rolled_back_though_the_holdback_is_empty(world: World) -> None:
    state, reason, champion = watched(world)
    assert (state, champion) == ("rolled_back", "base")
    assert "format: 40 of 40 answers malformed (100.0%), beside " in reason
    assert "in answers of before" in reason


def test_engines_that_fail_while_the_holdback_is_empty_are_not_the_versions_fault(world: World) -> None:
    state, _, champion = watched(world, status=502, error="the engine is away")
    assert (state, champion) == ("open", "1.0")


@pytest.mark.parametrize("against", [[], [False] * 5])
def test_answers_of_before_stand_in_only_where_there_are_none_of_now(against: list[bool]) -> None:
    ours = Tally([False] * 30, [True] * 10 + [False] * 20)
    earlier = Tally([False] * 100, [False] * 100)
    format_ = guard(ours, Tally(against, against), 1, 0.05, None, earlier)[1]
    assert format_.verdict == ("note" if against else "against")
    assert ("of before" in format_.text) is not bool(against)
