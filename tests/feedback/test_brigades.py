"""Many new raters on one target in a short time."""

from __future__ import annotations

import random
from itertools import count

import msgspec
import pytest

from feedback.datasets.brigades import Brigade, find_brigades
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import choose_corrections
from feedback.datasets.holds import decide_hold, held_feedback, keep_holds, released_feedback
from feedback.datasets.raters import judge_raters
from feedback.datasets.said import Said, Signal
from feedback.errors import ConflictError, NotFoundError
from feedback.settings import Dataset
from feedback.starter.grammar import SCHEMA
from feedback.storage.database import Database
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG

CONTRACT = TaskContract(SCHEMA)
HOUR = 3600.0
_numbers = count()


def spoke(
    rater: str,
    at: float,
    correction: str | None = RIGHT,
    rating: int = 1,
    group: str = "",
    version: str = "1.0",
) -> Said:
    number = next(_numbers)
    group = group or f"p{number}"
    signals = (Signal(f"f{number:06}", rater, "user", rating, correction, at),)
    return Said(
        f"i{number:06}", [{"role": "user", "content": group}], WRONG, group, "train", signals, version=version
    )


def regulars(days: int = 3) -> list[Said]:
    """Forty users who have been there all the time and correct all kinds of things."""
    rng = random.Random(5)
    return [
        spoke(f"regular {n}", day * 24 * HOUR + rng.random() * 24 * HOUR, rng.choice((RIGHT, OTHER)))
        for day in range(days)
        for n in range(40)
        for _ in range(3)
    ]


def attack(raters: int, **fields: str) -> list[Said]:
    return [spoke(f"new {n}", 60 * HOUR + n * 60, OTHER, **fields) for n in range(raters)]


def found(*said: Said, released: tuple[str, ...] = ()) -> list[Brigade]:
    return find_brigades(said, CONTRACT, 5, 1.0, released)


def test_many_new_raters_with_one_correction_in_an_hour_are_found_together() -> None:
    lies = attack(9)
    brigade = next(one for one in found(*regulars(), *lies) if one.kind == "correction")
    assert set(brigade.feedback) == {one.signals[0].feedback_id for one in lies}
    assert brigade.raters == 9 and brigade.usual < 0.2


def test_many_new_raters_on_one_prompt_group_are_found() -> None:
    assert "group" in {one.kind for one in found(*regulars(), *attack(9, group="one"))}


def test_many_new_raters_against_one_version_are_found_where_there_is_another() -> None:
    assert ("version", "1.1") in {
        (one.kind, one.target) for one in found(*regulars(), *attack(9, version="1.1"))
    }


@pytest.mark.parametrize("raters", [1, 4])
def test_a_few_newcomers_are_no_brigade(raters: int) -> None:
    assert found(*regulars(), *attack(raters)) == []


def test_the_first_day_of_a_product_is_no_brigade() -> None:
    rng = random.Random(2)
    first = [spoke(f"user {n}", rng.random() * HOUR, rng.choice((RIGHT, OTHER, None))) for n in range(300)]
    assert found(*first) == []


def test_newcomers_spread_over_days_are_no_brigade() -> None:
    slow = [spoke(f"new {n}", n * 8 * HOUR, OTHER) for n in range(9)]
    assert found(*regulars(), *slow) == []


def test_what_is_held_does_not_count_and_says_so() -> None:
    lies = attack(9)
    everything = [*regulars(), *lies]
    held = {identifier: "h1" for one in found(*everything) for identifier in one.feedback}
    trust = judge_raters(everything, (), CONTRACT, 0.7, held)
    settings = msgspec.structs.replace(Dataset(), minimum_new=1)
    chosen = choose_corrections(everything, (), (), CONTRACT, settings, (), trust)
    assert chosen.dropped["held for review: many new raters on one target"] == 9
    assert "starloop raters show h1" in chosen.waits[lies[0].inference_id]
    assert not {one.group_key for one in lies} & {one.group_key for one in chosen.examples}


def test_a_hold_stands_until_a_reviewer_lets_go_and_is_not_found_again(sqlite_database: Database) -> None:
    everything = [*regulars(), *attack(9)]
    with sqlite_database.session() as session:
        keep_holds(session, "assistant", found(*everything), NOW)
        keep_holds(session, "assistant", found(*everything), NOW)
        held = held_feedback(session, "assistant")
        assert len(held) == 9 and len(set(held.values())) == 1
        (hold,) = set(held.values())
        decide_hold(session, hold, "release", "rob", NOW)
        assert held_feedback(session, "assistant") == {}
        assert found(*everything, released=tuple(released_feedback(session, "assistant"))) == []
        with pytest.raises(ConflictError, match="released already, by rob"):
            decide_hold(session, hold, "uphold", "sue", NOW)
        with pytest.raises(NotFoundError):
            decide_hold(session, "nothing", "uphold", "sue", NOW)


def test_an_hour_in_which_all_are_new_everywhere_is_no_brigade_however_many_are_here() -> None:
    before = [spoke(f"early {n}", n * 10.0, rating=5, version="base") for n in range(30)]
    after = [spoke(f"late {n}", 600 + n * 2.0, OTHER if n % 2 else RIGHT) for n in range(375)]
    assert found(*before, *after) == []
