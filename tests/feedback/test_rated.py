"""Answers that were only rated: good, bad or neither, and never a target."""

from __future__ import annotations

from typing import Any

from feedback.datasets.rated import choose_rated
from feedback.datasets.said import Said, Signal


def said(number: int, *stars: int | None, **changes: Any) -> Said:
    """An answer with one rating each of several raters."""
    signals = tuple(
        Signal(f"feedback-{number}-{place}", f"rater-{place}", "user", given, None)
        for place, given in enumerate(stars)
    )
    plain = {
        "inference_id": f"i{number}",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "output": f"answer {number}",
        "group_key": str(number),
        "side": "train",
        "signals": signals,
    }
    return Said(**(plain | changes))


def chosen(*answers: Said, used: set[str | None] | None = None) -> dict[str, str]:
    rows = choose_rated(answers, {"99"}, used or set())
    return {str(row.inference_id): row.source for row in rows}


def test_four_stars_are_good_two_are_bad_and_three_say_nothing() -> None:
    answers = [said(stars, stars) for stars in range(1, 6)]
    assert chosen(*answers) == {"i1": "rated-", "i2": "rated-", "i4": "rated+", "i5": "rated+"}


def test_raters_who_disagree_say_nothing() -> None:
    assert chosen(said(1, 5, 1), said(2, 5, 3), said(3, 1, 2), said(4, 4, 5), said(5, None)) == {
        "i3": "rated-",
        "i4": "rated+",
    }


def test_what_is_used_otherwise_judged_by_dealt_with_or_of_the_other_side_is_left_out() -> None:
    answers = [
        said(1, 1),
        said(2, 1, side="evaluation"),
        said(3, 1, side=None),
        said(99, 1),
        said(5, 1, resolution="dismissed"),
        said(6, 1, output=""),
    ]
    assert chosen(*answers, used={"i1"}) == {}


def test_one_answer_to_one_prompt_that_is_called_good_and_bad_is_neither() -> None:
    twin = {"messages": [{"role": "user", "content": "same"}], "output": "answer"}
    assert chosen(said(1, 1, **twin), said(2, 5, **twin), said(3, 2)) == {"i3": "rated-"}
