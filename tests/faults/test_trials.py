"""A short run of `tests.faults.trials`; `make faults` kills in every phase and at random moments of three stories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.cycle_scene import cycle_scene
from tests.faults.cycles import Moment
from tests.faults.trials import CANARY, STORIES, one_trial, prepare

pytestmark = [pytest.mark.timeout(400), pytest.mark.alone]


def test_a_version_that_users_turn_on_is_promoted_and_rolled_back_once_though_the_loop_dies(
    tmp_path: Path,
) -> None:
    from tests.trainer.tiny import write_base

    story = STORIES[-1]
    with cycle_scene(tmp_path, write_base, CANARY) as on:
        cycle_id = prepare(on)
        course, left = one_trial(on, cycle_id, story, [Moment("canary", 0.0), Moment("watch", 0.0)])
    assert left.problems == [] and course.kills == ["canary", "watch"], (left, course)
    facts = left.facts
    assert (facts["state"], facts["decision"], facts["champion"]) == ("done", "promoted", None)
    assert facts["moves"] == list(story.moves) == [("promotion", "1.0"), ("rollback", None)]
    assert facts["canaries"] == [("canary", "1.0", "passed"), ("watch", "1.0", "rolled_back")]
