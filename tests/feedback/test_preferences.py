"""Answers that people compared side by side: what is learned from a preference, and what is not."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import Said, Signal, choose_corrections
from feedback.datasets.evidence import read_heard
from feedback.datasets.said import Pair
from feedback.settings import Dataset
from feedback.starter.grammar import SCHEMA
from feedback.storage.database import Database
from tests.feedback.test_curation import said, signal
from tests.feedback.world import OTHER, RIGHT, WRONG, World, settings_for


def over(worse: Said, rater: str = "ann", rating: int | None = None) -> Signal:
    return signal(rater, None, rating)._replace(preferred_over=worse.inference_id)


def pairs(*all_said: Said, judging: set[str] | None = None, **rules: Any) -> list[Pair]:
    chosen = choose_corrections(all_said, judging or set(), set(), TaskContract(SCHEMA), Dataset(**rules), ())
    return chosen.pairs


def test_of_two_answers_the_preferred_one_is_chosen_and_no_target_comes_of_it() -> None:
    worse = said("x", output=WRONG)
    better = said("x", over(worse), output=RIGHT)
    (pair,) = pairs(worse, better)
    assert (pair.chosen, pair.rejected, pair.source) == (RIGHT, WRONG, "preference")
    assert (pair.inference_id, pair.rater) == (worse.inference_id, "ann")
    assert not choose_corrections([worse, better], set(), set(), TaskContract(SCHEMA), Dataset(), ()).examples


def test_the_order_in_which_the_two_were_answered_does_not_matter() -> None:
    better, worse = said("x", output=RIGHT), said("x", output=WRONG)
    assert len(pairs(replace(better, signals=(over(worse),)), worse)) == 1


@pytest.mark.parametrize(
    "otherwise",
    [
        signal("bob", None, 1),
        signal("bob", OTHER, None),
    ],
)
def test_a_better_answer_that_failed_otherwise_is_never_chosen(otherwise: Signal) -> None:
    worse = said("x", output=WRONG)
    found = pairs(worse, said("x", over(worse), otherwise, output=RIGHT))
    assert not [pair for pair in found if pair.chosen == RIGHT]


@pytest.mark.parametrize("output", ["no label at all", ""])
def test_an_answer_against_the_task_contract_is_never_chosen(output: str) -> None:
    worse = said("x", output=WRONG)
    assert not pairs(worse, said("x", over(worse), output=output))


def test_the_answer_that_is_known_to_be_right_is_never_rejected() -> None:
    right = said("x", output=RIGHT)
    assert [pair.source for pair in pairs(right, said("x", over(right), output=WRONG))] == ["preference"]
    wrong = said("x", signal("bob", RIGHT), output=OTHER)
    assert RIGHT not in {pair.rejected for pair in pairs(right, said("x", over(right), output=WRONG), wrong)}


def test_preferences_across_prompts_and_among_equal_answers_say_nothing() -> None:
    elsewhere, equal = said("y", output=WRONG), said("x", output=RIGHT)
    assert not pairs(elsewhere, equal, said("x", over(elsewhere), over(equal, "bob"), output=RIGHT))


def test_where_raters_disagree_the_majority_counts_and_a_draw_teaches_nothing() -> None:
    one, other = said("x", output=RIGHT), said("x", output=WRONG)

    def with_votes(for_one: int, for_other: int) -> list[Pair]:
        first = [over(other, f"a{place}") for place in range(for_one)]
        second = [over(one, f"b{place}") for place in range(for_other)]
        return pairs(
            replace(one, signals=tuple(first)),
            replace(other, signals=tuple(second)),
        )

    assert [pair.chosen for pair in with_votes(2, 1)] == [RIGHT]
    assert [pair.chosen for pair in with_votes(1, 2)] == [WRONG]
    assert not with_votes(1, 1)


def test_cases_and_the_evaluation_side_are_kept_apart() -> None:
    worse = said("x", output=WRONG)
    assert not pairs(worse, said("x", over(worse), output=RIGHT), judging={"x"})
    aside = said("x", output=WRONG, side="evaluation")
    assert not pairs(aside, said("x", over(aside), output=RIGHT, side="evaluation"))


def test_one_rater_has_only_so_many() -> None:
    rows = []
    for number in range(30):
        worse = said(f"question {number}", output=WRONG)
        rows += [worse, said(f"question {number}", over(worse, "eve"), output=RIGHT)]
    assert len(pairs(*rows, rater_minimum=7)) == 7


def test_the_worse_answer_is_read_also_where_nothing_was_said_of_it(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with closing(Database(f"sqlite:///{tmp_path / 'starloop.sqlite'}")) as database:
        database.upgrade()
        world = World(database, settings)
        worse, other = world.ask("x", WRONG), world.ask("x", RIGHT, model="another")
        better = world.ask("x", RIGHT)
        world.say(better, preferred_over=worse)
        world.say(world.ask("y", RIGHT), preferred_over=other)
        world.write()
        with database.reading() as session:
            heard = {one.inference_id: one for one in read_heard(session, "assistant")}
    assert worse in heard and not heard[worse].signals and other not in heard
    assert heard[better].signals[0].preferred_over == worse
