"""Which corrections are trained on, and whom to believe (invariants 2 and 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.datasets.answer_check import AnswerCheck
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import Corrections, Said, Signal, choose_corrections, refuse_too_few
from feedback.errors import DataRefusedError
from feedback.settings import Dataset
from feedback.starter.grammar import SCHEMA
from tests.feedback.world import OTHER, RIGHT, WRONG

CONTRACT = TaskContract(SCHEMA)
_numbers = count()


def signal(rater: str, correction: str | None, rating: int | None = 1, source: str = "user") -> Signal:
    return Signal(f"f{next(_numbers):06}", rater, source, rating, correction)


def said(prompt: str, *signals: Signal, output: str = WRONG, group: str = "", **fields: Any) -> Said:
    return Said(
        inference_id=f"i{next(_numbers):06}",
        messages=[{"role": "user", "content": prompt}],
        output=output,
        group_key=group or prompt,
        side=fields.pop("side", "train"),
        signals=signals,
        **fields,
    )


def choose(*all_said: Said, guards_off: tuple[str, ...] = (), **rules: Any) -> Corrections:
    judging, learned = rules.pop("judging", set()), rules.pop("learned", set())
    dataset = Dataset(**({"minimum_new": 1} | rules))
    chosen = choose_corrections(all_said, judging, learned, CONTRACT, dataset, guards_off)
    refuse_too_few(chosen, dataset, guards_off)
    return chosen


def refused(*all_said: Said, guards_off: tuple[str, ...] = (), **rules: Any) -> str:
    with pytest.raises(DataRefusedError) as caught:
        choose(*all_said, guards_off=guards_off, **rules)
    return str(caught.value)


def test_a_correction_is_a_target_with_its_prompt_and_its_source() -> None:
    one = said("where is my refund", signal("ann", RIGHT))
    (example,) = choose(one).examples
    assert (example.messages, example.answer) == (one.messages, RIGHT)
    assert (example.source, example.rater, example.new) == ("correction", "ann", True)
    assert (example.inference_id, example.feedback_id) == (one.inference_id, one.signals[0].feedback_id)


@pytest.mark.parametrize("rating", [1, 2, 3, 4, 5, None])
def test_a_rating_alone_never_makes_a_target(rating: int | None) -> None:
    assert refused(said("x", signal("ann", None, rating))).startswith("0 new examples")


ANSWERS = st.sampled_from([RIGHT, WRONG, OTHER, "sorry", ""])
SIGNALS = st.builds(
    signal,
    st.sampled_from(["ann", "bob", "eve"]),
    st.none() | ANSWERS,
    st.none() | st.integers(1, 5),
    st.sampled_from(["user", "reviewer"]),
)
SAID = st.builds(
    lambda prompt, signals, output, resolution, reviewed, side: said(
        prompt,
        *signals,
        output=output,
        resolution=resolution,
        reviewed_answer=reviewed if resolution == "corrected" else None,
        side=side,
    ),
    st.sampled_from(["p1", "p2", "p3", "p4"]),
    st.lists(SIGNALS, max_size=3),
    ANSWERS,
    st.sampled_from([None, None, "corrected", "accepted", "dismissed"]),
    ANSWERS,
    st.sampled_from(["train", "train", "evaluation", None]),
)


@given(st.lists(SAID, max_size=8))
def test_a_bad_answer_is_never_a_target(everything: list[Said]) -> None:
    """Whatever is said: each target was written as a correction of its own inference, or praised in its group."""
    try:
        chosen = choose(*everything, guards_off=("raters", "size"))
    except DataRefusedError:
        return
    by_id = {one.inference_id: one for one in everything}
    for example in chosen.examples:
        one = by_id[example.inference_id or ""]
        written = {signal.correction for signal in one.signals} | {one.reviewed_answer}
        if example.source == "sibling":
            written = {
                other.output
                for other in everything
                if other.group_key == one.group_key and any((s.rating or 0) >= 4 for s in other.signals)
            }
        assert example.answer in written and example.answer != one.output
        assert CONTRACT.valid(example.answer)
        assert one.side == "train"
        assert one.resolution not in ("accepted", "dismissed")
    assert len({example.group_key for example in chosen.examples}) == len(chosen.examples)


def test_a_correction_against_the_task_contract_is_left_out_and_told() -> None:
    assert "1 against the task contract" in refused(said("x", signal("ann", "it is a refund")))


def names_its_question(answer: str, messages: Sequence[dict[str, str]] | None) -> str | None:
    """A check of an operator's. It lets pass what it cannot see."""
    asked = messages and messages[-1]["content"]
    return f"does not name {asked}" if asked and asked not in answer else None


def test_a_check_of_the_messages_judges_corrections() -> None:
    contract = TaskContract(check=AnswerCheck(f"{__name__}:names_its_question"))
    asked = [said("tea", signal("ann", "coffee")), said("milk", signal("ben", "milk it is"))]
    chosen = choose_corrections(asked, set(), set(), contract, Dataset(minimum_new=1), ())
    assert [example.answer for example in chosen.examples] == ["milk it is"]
    assert (
        chosen.waits[asked[0].inference_id] == "its correction breaks the task contract: it does not name tea"
    )


def test_a_correction_equal_to_the_answer_adds_nothing_and_is_told() -> None:
    spelled = '{"urgency": "low",   "intent": "bug"}'
    assert "1 equal to the answer given" in refused(said("x", signal("ann", spelled)))


@pytest.mark.parametrize("side", ["evaluation", None])
def test_a_row_that_is_not_on_the_training_side_is_not_trained_on(side: str | None) -> None:
    assert "1 kept apart for evaluation" in refused(said("x", signal("ann", RIGHT), side=side))


def test_a_group_that_a_case_is_made_of_is_not_trained_on() -> None:
    assert "1 kept apart for evaluation" in refused(said("x", signal("ann", RIGHT)), judging={"x"})


@pytest.mark.parametrize("resolution", ["accepted", "dismissed"])
def test_what_a_reviewer_put_aside_is_not_trained_on(resolution: str) -> None:
    told = refused(said("x", signal("ann", RIGHT), resolution=resolution))
    assert f"1 on answers that a reviewer {resolution}" in told


def test_a_reviewers_answer_replaces_the_users() -> None:
    one = said("x", signal("ann", OTHER), resolution="corrected", reviewed_answer=RIGHT, reviewed_by="rob")
    (example,) = choose(one).examples
    assert (example.answer, example.source, example.rater) == (RIGHT, "reviewer", "rob")


def test_the_newest_correction_of_a_rater_wins_in_a_group() -> None:
    chosen = choose(said("x", signal("ann", OTHER), group="g"), said("x!", signal("ann", RIGHT), group="g"))
    assert [example.answer for example in chosen.examples] == [RIGHT]
    assert chosen.dropped == {"older or outvoted in their group": 1}


def test_raters_who_disagree_cancel_each_other_until_a_third_decides() -> None:
    rivals = [said("x", signal("ann", RIGHT), group="g"), said("x!", signal("bob", OTHER), group="g")]
    assert "2 of raters who disagree" in refused(*rivals)
    (example,) = choose(*rivals, said("x?", signal("eve", RIGHT), group="g")).examples
    assert example.answer == RIGHT


def test_what_the_champion_has_learned_is_kept_but_not_new() -> None:
    first = choose(said("x", signal("ann", RIGHT)))
    learned = {example.content_hash for example in first.examples}
    both = choose(said("x", signal("ann", RIGHT)), said("y", signal("bob", RIGHT)), learned=learned)
    assert [(example.group_key, example.new) for example in both.examples] == [("x", False), ("y", True)]
    assert refused(said("x", signal("ann", RIGHT)), learned=learned).startswith("0 new examples")


def attack(honest: int, lies: int, raters: int = 3) -> list[Said]:
    """`honest` users with one right correction each, and a few raters who lie a lot."""
    rows = [said(f"honest {n}", signal(f"user {n}", RIGHT)) for n in range(honest)]
    return rows + [
        said(f"lie {rater} {n}", signal(f"liar {rater}", OTHER))
        for rater in range(raters)
        for n in range(lies)
    ]


def test_a_flood_from_a_few_raters_does_not_get_through_to_train() -> None:
    assert refused(*attack(honest=4, lies=60), minimum_new=50) == (
        "19 new examples after the rater cap (165 corrections held back from 3 raters above the cap of 5 each); at "
        "least 50 are needed, so nothing was trained. Collect more corrections, or lower [dataset] minimum_new (50)."
    )


def test_with_the_guard_off_by_name_the_flood_gets_through() -> None:
    chosen = choose(*attack(honest=4, lies=60), minimum_new=50, guards_off=("raters",))
    assert len(chosen.new) == 184 and chosen.held.cap is None


@pytest.mark.parametrize("lies", [50, 500, 5000])
def test_the_cap_does_not_rise_with_the_flood(lies: int) -> None:
    """A share of what was sent would let 3 raters with 5,000 lies through with 300 each."""
    chosen = choose(*attack(honest=400, lies=lies), minimum_new=50)
    lied = Counter(example.rater for example in chosen.new if example.answer == OTHER)
    assert set(lied.values()) == {8} and len(chosen.new) == 424


@settings(deadline=None)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=30), st.floats(0, 0.5), st.integers(1, 10))
def test_no_rater_has_more_than_the_larger_of_minimum_and_share(
    counts: list[int], share: float, minimum: int
) -> None:
    rows = [
        said(f"{rater}-{n}", signal(f"rater {rater}", RIGHT))
        for rater, number in enumerate(counts)
        for n in range(number)
    ]
    chosen = choose(*rows, rater_share=share, rater_minimum=minimum)
    each = Counter(example.rater for example in chosen.new)
    assert max(each.values()) <= max(minimum, share * len(chosen.new))
    assert sum(each.values()) + chosen.held.corrections == sum(counts)


def test_under_the_cap_the_oldest_stay_so_more_data_takes_nothing_away() -> None:
    rows = attack(honest=0, lies=30, raters=1)
    before = [example.group_key for example in choose(*rows[:20]).examples]
    after = [example.group_key for example in choose(*rows).examples]
    assert before == after == [f"lie 0 {n}" for n in range(5)]


def test_a_reviewer_is_not_capped() -> None:
    rows = [said(f"p{n}", signal("rob", RIGHT, source="reviewer")) for n in range(60)]
    assert len(choose(*rows, minimum_new=50).new) == 60


def test_what_was_learned_before_does_not_count_against_the_cap() -> None:
    rows = attack(honest=0, lies=12, raters=1)
    learned = {example.content_hash for example in choose(*rows, guards_off=("raters",)).examples[:6]}
    chosen = choose(*rows, learned=learned)
    assert len(chosen.examples) == 11 and len(chosen.new) == 5


def test_the_size_guard_says_how_many_are_missing_and_can_be_switched_off() -> None:
    rows = attack(honest=3, lies=0)
    assert refused(*rows, minimum_new=50).startswith("3 new examples; at least 50 are needed")
    assert len(choose(*rows, minimum_new=50, guards_off=("size",)).new) == 3
    assert refused(guards_off=("size",)) == (
        "0 new examples; at least 1 is needed, so nothing was trained. Collect more corrections."
    )
