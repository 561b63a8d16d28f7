"""What is replayed beside corrections, so that old skill stays."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.datasets.chat import Conversation
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import BaseExample, Example, Said
from feedback.datasets.replay import choose_replay
from feedback.errors import DataRefusedError
from feedback.settings import Dataset
from feedback.starter.grammar import SCHEMA
from tests.feedback.test_curation import choose, said, signal
from tests.feedback.world import OTHER, RIGHT, WRONG


def base(number: int, side: Any = "train", answer: str = RIGHT) -> BaseExample:
    prompt = f"base {number}"
    return BaseExample(Conversation([{"role": "user", "content": prompt}], answer), prompt, side)


def praised(prompt: str, rating: int | None = 5, **fields: Any) -> Said:
    return said(prompt, signal("ann", None, rating), output=fields.pop("output", RIGHT), **fields)


def replay(
    all_said: list[Said],
    examples: list[BaseExample],
    corrected: int = 1,
    guards_off: tuple[str, ...] = (),
    judging: set[str] | None = None,
    **rules: Any,
) -> list[Example]:
    targets = choose(*[said(f"new {n}", signal(f"user {n}", OTHER)) for n in range(corrected)]).examples
    return choose_replay(
        all_said, examples, targets, judging or set(), TaskContract(SCHEMA), Dataset(**rules), guards_off
    )


def test_replay_is_counted_against_the_corrections() -> None:
    assert len(replay([], [base(n) for n in range(50)], corrected=10, replay=2.0)) == 20
    assert len(replay([], [base(n) for n in range(50)], corrected=10, replay=0.5)) == 5


def test_base_examples_and_well_rated_answers_come_in_equal_parts_as_long_as_they_last() -> None:
    many, few = [base(n) for n in range(50)], [praised(f"live {n}") for n in range(4)]
    sources = [example.source for example in replay(few, many, corrected=10, replay=2.0)]
    assert (sources.count("replay"), sources.count("base")) == (4, 16)
    plenty = [praised(f"live {n}") for n in range(50)]
    sources = [example.source for example in replay(plenty, many, corrected=10, replay=2.0)]
    assert sources.count("replay") == sources.count("base") == 10


def test_every_kind_of_answer_is_replayed_as_often_as_the_others_as_long_as_it_lasts() -> None:
    common = [praised(f"common {n}") for n in range(50)]
    rare = [praised(f"rare {n}", output=WRONG) for n in range(6)]
    answers = [example.answer for example in replay([*common, *rare], [], corrected=5, replay=2.0)]
    assert (answers.count(RIGHT), answers.count(WRONG)) == (5, 5)
    answers = [example.answer for example in replay([*common, *rare], [], corrected=10, replay=2.0)]
    assert (answers.count(RIGHT), answers.count(WRONG)) == (14, 6)


def test_praise_of_what_corrections_teach_has_a_part_of_its_own() -> None:
    """What the model has just learned is praised rarely yet, and would be lost among what it always knew."""
    known = [praised(f"known {n}") for n in range(50)] + [
        praised(f"more {n}", output=WRONG) for n in range(50)
    ]
    taught = [praised(f"taught {n}", output=OTHER) for n in range(50)]
    chosen = replay([*known, *taught], [base(n) for n in range(50)], corrected=6, replay=2.0)
    sources = [(example.source, example.answer == OTHER) for example in chosen]
    assert [sources.count(one) for one in (("base", False), ("replay", True), ("replay", False))] == [4, 4, 4]


def test_a_well_rated_answer_is_replayed_as_it_was_given() -> None:
    one = praised("thanks")
    (example,) = replay([one], [])
    assert (example.answer, example.inference_id, example.rater) == (RIGHT, one.inference_id, "ann")
    assert (example.source, example.new, example.feedback_id) == ("replay", False, one.signals[0].feedback_id)


REFUSED = [
    praised("x", 3),
    praised("x", None),
    praised("x", side="evaluation"),
    praised("x", side=None),
    praised("x", output="sorry"),
    praised("x", output=""),
    praised("x", finish_reason="length"),
    praised("x", resolution="dismissed"),
    praised("x", resolution="corrected", reviewed_answer=OTHER),
    said("x", signal("ann", None, 5), signal("bob", None, 2), output=RIGHT),
    said("x", signal("ann", None, 5), signal("bob", OTHER, None), output=RIGHT),
]


@pytest.mark.parametrize("one", REFUSED)
def test_an_answer_that_anything_speaks_against_is_not_replayed(one: Said) -> None:
    assert replay([one], [base(1)]) == replay([], [base(1)])


@pytest.mark.parametrize("side", ["train", "evaluation", None])
def test_one_doubt_about_a_like_prompt_keeps_its_whole_group_out(side: str | None) -> None:
    praise, doubt = praised("x", group="g"), said("x!", signal("bob", None, 1), group="g", side=side)
    assert [example.source for example in replay([praise, doubt], [base(1)])] == ["base"]


def test_a_correction_that_says_the_same_is_no_doubt_and_neither_is_a_complaint_found_wrong() -> None:
    agreed = said("x", signal("ann", RIGHT, 5), output=RIGHT)
    accepted = said("y", signal("bob", None, 1), output=RIGHT, resolution="accepted", reviewed_by="rob")
    assert {example.group_key for example in replay([agreed, accepted], [])} == {"x", "y"}


def test_what_is_corrected_or_judged_by_is_not_replayed() -> None:
    corrected = BaseExample(base(1).conversation, "new 0", "train")
    assert [
        example.group_key for example in replay([], [corrected, base(2), base(3)], judging={"base 2"})
    ] == ["base 3"]


def test_base_examples_for_evaluation_are_not_replayed() -> None:
    rows = [base(1, "evaluation"), base(2, None), base(3), base(4, answer="sorry")]
    assert [example.group_key for example in replay([], rows)] == ["base 3"]


def test_nothing_to_replay_is_refused_unless_asked_for_by_name() -> None:
    with pytest.raises(
        DataRefusedError, match=r"0 old examples to replay beside 10 corrected ones; at least 5 are"
    ):
        replay([], [], corrected=10)
    assert replay([], [], corrected=10, guards_off=("replay",)) == []


def test_a_setting_that_replays_nothing_is_refused_unless_asked_for_by_name() -> None:
    with pytest.raises(DataRefusedError, match="forgets what it knew"):
        replay([], [base(n) for n in range(50)], replay=0.0)
    assert replay([], [base(n) for n in range(50)], replay=0.0, guards_off=("replay",)) == []


def test_the_choice_hardly_changes_as_data_grows() -> None:
    before = {example.group_key for example in replay([], [base(n) for n in range(100)], corrected=10)}
    after = {example.group_key for example in replay([], [base(n) for n in range(110)], corrected=10)}
    assert len(before & after) >= 15  # of 20
