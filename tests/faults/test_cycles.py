"""A short run of `tests.faults.cycles`; `make faults` kills at every step's beginning and at twenty random moments."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.cycle_scene import cycle_scene
from tests.faults.cycles import Course, Left, Moment, Results, at_random, one_cycle, table
from trainer.steps import STEPS

pytestmark = [pytest.mark.timeout(400), pytest.mark.alone]


def test_a_cycle_whose_loop_is_killed_ends_once_and_leaves_nothing_over(tmp_path: Path) -> None:
    from tests.trainer.tiny import write_base

    moments = [Moment("train", 1.0), Moment("evaluate", 0.2), Moment("settle", 0.0)]
    with cycle_scene(tmp_path, write_base) as on:
        course, left = one_cycle(on, moments)
    facts = left.facts
    assert left.problems == [] and len(course.kills) == 3, (left, course)
    assert (facts["state"], facts["decision"], facts["champion"]) == ("done", "promoted", "1.0")
    assert facts["versions"] == [("1.0", "promoted")]
    assert facts["moves"] == [("promotion", "1.0")]
    assert facts["steps"] == list(STEPS)
    counts, files = facts["counts"], facts["files"]
    assert isinstance(counts, dict) and isinstance(files, list)
    assert counts["DatasetVersion"] == 1
    assert [name for name in files if ".partial" in name or "checkpoints" in name] == []
    assert {name.split("/")[1] for name in files if name.startswith("adapters/")} == {"assistant@1.0"}
    assert {name.split("/")[1] for name in files if name.startswith("runs/")} == {"CYCLE"}


def test_random_moments_stand_in_their_order_and_within_their_steps() -> None:
    quiet = Course(seconds=10.0, starts=[("triage", 2.0), ("train", 3.0), ("gate", 9.0)])
    moments = at_random(quiet, 200, random.Random(1))
    order = [("start", 2.0), ("triage", 1.0), ("train", 6.0), ("gate", 1.0)]
    assert [one.step for one in moments] == sorted(
        (one.step for one in moments), key=[name for name, _ in order].index
    )
    assert {one.step for one in moments} == {name for name, _ in order}
    assert all(0 <= one.seconds <= dict(order)[one.step] for one in moments)


def test_a_run_does_not_hold_where_a_kill_was_left_out_or_something_differs() -> None:
    left = Left({"decision": "promoted", "state": "done", "moves": []}, [])
    results = Results(left, Course(), [Course(kills=["train", "gate"])])
    assert results.hold(2) and not results.hold(3)
    results.wrong.append("cycle 1, killed in train: 2 trainings at one time")
    assert not results.hold(2)
    assert "2 trainings at one time" in table(results)
