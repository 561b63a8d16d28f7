"""Which inferences are failure cases."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from feedback.datasets.contract import TaskContract
from feedback.datasets.follow_ups import Sign
from feedback.datasets.slowness import Pace
from feedback.datasets.triage import Answered, Reason, Triager, is_operational, rules_hash
from feedback.settings import ReasonName, Triage
from feedback.starter.grammar import SCHEMA

CONTRACT = TaskContract(SCHEMA)
RIGHT = '{"intent": "refund", "urgency": "low"}'


def reasons(
    output: str | None = RIGHT,
    finish_reason: str | None = "stop",
    ratings: tuple[int, ...] = (),
    corrections: tuple[str, ...] = (),
) -> list[Reason]:
    return Triager(CONTRACT, Triage()).reasons(Answered(output, finish_reason), ratings, corrections)


def free(answer: Answered, *corrections: str, signs: tuple[Sign, ...] = (), **rules: Any) -> list[Reason]:
    """Reasons for an answer of a model without a contract."""
    return Triager(TaskContract(None), Triage(**rules)).reasons(answer, (), corrections, signs)


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


def test_an_edit_tells_how_far_it_went_and_a_small_one_says_less() -> None:
    answer = Answered("Your parcel comes on Monday, between nine and noon.")
    (small,) = free(answer, "Your parcel comes on Monday, between nine and noon!")
    (large,) = free(answer, "We are sorry that it took so long; it was lost.")
    assert small.evidence == "a user wrote another answer: 1 characters changed, 98% alike"
    assert 0.6 <= small.confidence < 0.65 < large.confidence <= 0.95


def test_under_a_contract_one_character_makes_another_answer() -> None:
    labels = Triager(TaskContract(labels=["a1", "a2"]), Triage())
    (found,) = labels.reasons(Answered("a1"), (), ["a2"])
    assert (found.reason, found.confidence) == ("edited", 0.9)


def test_a_refusal_counts_unless_the_contract_is_met() -> None:
    refusal = "I'm sorry, but I can't help with that."
    assert names(free(Answered(refusal))) == ["refusal"]
    assert names(reasons(output=refusal)) == ["schema_invalid", "refusal"]
    assert Triager(TaskContract(labels=[refusal]), Triage()).reasons(Answered(refusal)) == []
    assert names(free(Answered("", "content_filter"))) == ["refusal"]
    assert names(free(Answered("Das darf ich nicht sagen."), refusals=["das darf ich nicht"])) == ["refusal"]


def test_an_answer_that_runs_in_circles_to_its_limit_is_both() -> None:
    looping = "The parcel is late. " + "I will check that for you. " * 20
    found = free(Answered(looping, "length"))
    assert names(found) == ["truncated", "repetition"]
    assert found[1].evidence.startswith("20 times 'I will check that for you.'")


def test_what_users_do_next_counts_unless_somebody_praised_the_answer() -> None:
    signs = [Sign("x", "asked_again", 0.5, "asked again")]
    triager = Triager(CONTRACT, Triage())
    assert names(triager.reasons(Answered(RIGHT), (3,), signs=signs)) == ["asked_again"]
    assert triager.reasons(Answered(RIGHT), (4,), signs=signs) == []


def test_an_engine_that_failed_is_an_error_and_what_a_client_did_wrong_is_not() -> None:
    assert names(free(Answered(None, None, 503, "no replica answers"))) == ["error"]
    assert names(free(Answered("half an ans", None, 200, "the stream broke off"))) == ["error"]
    assert [free(Answered(None, None, status, "no")) for status in (400, 429, 499)] == [[], [], []]


def test_an_answer_is_slow_by_what_is_usual_for_its_version() -> None:
    triager = Triager(CONTRACT, Triage())
    usual = Pace(middle=3.0, spread=0.2)  # about 20 ms per token
    assert triager.reasons(Answered(RIGHT, latency_ms=400, tokens=16), pace=usual) == []
    (slow,) = triager.reasons(Answered(RIGHT, latency_ms=3200, tokens=16), pace=usual)
    assert slow.reason == "slow" and slow.evidence == "200 ms per token, where 20 is usual (11 deviations)"
    assert triager.reasons(Answered(RIGHT, latency_ms=3200, tokens=1), pace=usual) == []
    assert is_operational({"slow", "error"}) and not is_operational({"slow", "low_rating"})


@pytest.mark.parametrize("off", get_args(ReasonName))
def test_every_reason_can_be_turned_off(off: str) -> None:
    triager = Triager(TaskContract(labels=["yes", "no"]), Triage(off=[off]))  # type: ignore[list-item]
    signs = [Sign("x", "asked_again", 0.5, ""), Sign("x", "negative_follow_up", 0.7, "")]
    circles, pace = "I cannot help you. " * 20, Pace(0.0, 0.1)
    found = {
        *names(triager.reasons(Answered(circles, latency_ms=1e6, tokens=9), (1,), ["yes"], signs, pace)),
        *names(triager.reasons(Answered("ye", "length"))),
        *names(triager.reasons(Answered(" "))),
        *names(triager.reasons(Answered(None, status=500))),
    }
    assert found == set(get_args(ReasonName)) - {off}


def test_other_rules_have_another_hash() -> None:
    contracts = [TaskContract(None), CONTRACT, TaskContract(labels=["a"]), TaskContract(pattern="a")]
    hashes = {rules_hash(contract, Triage()) for contract in contracts}
    assert len(hashes | {rules_hash(CONTRACT, Triage(low_rating=1))}) == 5
    assert rules_hash(TaskContract(SCHEMA), Triage()) == rules_hash(CONTRACT, Triage())
