"""Which inferences are failure cases."""

from __future__ import annotations

import pytest

from feedback.datasets.contract import TaskContract
from feedback.datasets.triage import Reason, reasons_for
from feedback.settings import Triage
from feedback.starter.grammar import SCHEMA

CONTRACT = TaskContract(SCHEMA)
RIGHT = '{"intent": "refund", "urgency": "low"}'


def reasons(
    output: str | None = RIGHT,
    finish_reason: str | None = "stop",
    ratings: tuple[int, ...] = (),
    corrections: tuple[str, ...] = (),
) -> list[Reason]:
    return reasons_for(output, finish_reason, ratings, corrections, CONTRACT, Triage())


def names(found: list[Reason]) -> list[str]:
    return [reason.reason for reason in found]


def test_a_good_answer_is_no_failure() -> None:
    assert reasons(ratings=(5, 4, 3)) == []


@pytest.mark.parametrize("rating", [1, 2])
def test_a_low_rating_is_a_reason(rating: int) -> None:
    assert names(reasons(ratings=(rating,))) == ["low_rating"]


def test_one_of_many_raters_is_weaker_evidence_than_all() -> None:
    (alone,) = reasons(ratings=(1, 5, 5, 5))
    (all_of_them,) = reasons(ratings=(1, 1, 2, 1))
    assert 0 < alone.confidence < all_of_them.confidence <= 1
    assert alone.evidence == "rated 1 of 5"


def test_a_correction_is_a_reason_only_where_it_says_something_else() -> None:
    assert names(reasons(corrections=('{"intent": "bug", "urgency": "low"}',))) == ["edited"]
    assert reasons(corrections=('{"urgency": "low",  "intent": "refund"}',)) == []


def test_an_empty_answer_is_a_reason_and_so_is_none() -> None:
    assert names(reasons(output=" \n")) == ["empty"]
    assert names(reasons(output="")) == ["empty"]


def test_an_answer_cut_off_at_its_limit_is_truncated_rather_than_against_the_schema() -> None:
    assert names(reasons(output='{"intent": "ref', finish_reason="length")) == ["truncated"]


def test_an_answer_against_the_schema_says_how() -> None:
    (found,) = reasons(output='{"intent": "pizza", "urgency": "low"}')
    assert found.reason == "schema_invalid" and "'pizza' is not one of" in found.evidence


def test_reasons_add_up() -> None:
    assert names(reasons(output="sorry", ratings=(1,), corrections=(RIGHT,))) == [
        "low_rating",
        "edited",
        "schema_invalid",
    ]


def test_of_an_answer_that_was_not_stored_only_what_was_said_counts() -> None:
    assert reasons(output=None) == []
    assert names(reasons(output=None, ratings=(1,))) == ["low_rating"]
