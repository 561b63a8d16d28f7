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
    assert "format: 40 of the newest 40 answers malformed (100.0%), beside " in reason
    assert "it broke down" in reason


def test_engines_that_fail_while_the_holdback_is_empty_are_not_the_versions_fault(world: World) -> None:
    state, _, champion = watched(world, status=502, error="the engine is away")
    assert (state, champion) == ("open", "1.0")


@pytest.mark.parametrize("holdback", [0, 1, 5, 49])
def test_a_holdback_that_is_nearly_empty_hides_no_breakdown(holdback: int) -> None:
    ours, theirs = Tally([False] * 40, [True] * 40), Tally([False] * holdback, [False] * holdback)
    earlier = Tally([False] * 100, [False] * 100)
    found = guard(ours, theirs, 1, 0.02, None, earlier)[1]
    assert found.verdict == "against"
    assert guard(ours, theirs, None, 0.02, None, earlier)[1].verdict != "against", "only where a look is due"


def test_a_version_that_breaks_down_in_mid_life_is_found_by_its_newest_answers() -> None:
    ours = Tally([False] * 500, [True] * 30 + [False] * 470)
    earlier = Tally([False] * 100, [False] * 100)
    assert guard(ours, Tally(), 12, 0.5, None, earlier)[1].verdict == "against"


def test_a_share_that_only_rose_beside_another_time_is_not_the_versions_fault() -> None:
    ours, earlier = (
        Tally([False] * 40, [True] * 8 + [False] * 32),
        Tally([False] * 100, [True] * 2 + [False] * 98),
    )
    assert guard(ours, Tally(), 1, 0.02, None, earlier)[1].verdict == "open"
