"""Whom to believe when several correct the same thing."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from feedback.datasets.votes import believed


class Vote(NamedTuple):
    rater: str
    answer: str
    source: str = "user"


def answer_of(*votes: Vote) -> str | None:
    found = believed(votes)
    return found.answer if found else None


def test_one_vote_is_believed_and_none_is_not() -> None:
    assert answer_of(Vote("ann", "a")) == "a"
    assert answer_of() is None


def test_of_one_rater_the_newest_counts() -> None:
    assert answer_of(Vote("ann", "a"), Vote("ann", "a"), Vote("ann", "b")) == "b"


def test_the_majority_of_raters_wins_not_that_of_votes() -> None:
    assert answer_of(Vote("ann", "a"), Vote("bob", "b"), Vote("eve", "b")) == "b"
    flood = [Vote("eve", "b")] * 50
    assert answer_of(Vote("ann", "a"), Vote("bob", "a"), *flood) == "a"


def test_where_raters_disagree_nobody_is_believed() -> None:
    assert answer_of(Vote("ann", "a"), Vote("bob", "b")) is None
    assert answer_of(Vote("ann", "a"), *[Vote("bob", "b")] * 9) is None


def test_a_reviewer_outweighs_any_number_of_users_and_the_newest_word_is_last() -> None:
    users = [Vote(f"user {n}", "a") for n in range(9)]
    assert answer_of(Vote("rob", "b", "reviewer"), *users) == "b"
    assert answer_of(Vote("rob", "b", "reviewer"), *users, Vote("sue", "c", "reviewer")) == "c"


def test_the_same_answer_spelled_otherwise_is_the_same() -> None:
    votes = [Vote("ann", '{"x": 1, "y": 2}'), Vote("bob", '{"y":2,"x":1}'), Vote("eve", '{"x": 3}')]
    assert believed(votes) == votes[1]


VOTES = st.lists(st.builds(Vote, st.sampled_from("abcde"), st.sampled_from("xyz")), max_size=12)


@given(VOTES, st.integers(1, 20))
def test_repeating_oneself_changes_nothing(votes: list[Vote], times: int) -> None:
    repeated = [vote for vote in votes for _ in range(times)]
    assert believed(repeated) == believed(votes)
