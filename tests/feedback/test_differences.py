"""Differences word by word: nothing is lost, and words read in one piece."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.datasets.differences import MOST, Part, word_difference

TEXTS = st.text(alphabet="ab \n.,ü", max_size=40)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", "", []),
        ("same", "same", [("same", "same")]),
        ("", "all new", [("new", "all new")]),
        ("all gone", "", [("gone", "all gone")]),
        ("it is late", "it is soon", [("same", "it is "), ("gone", "late"), ("new", "soon")]),
        ("one two three", "x y three", [("gone", "one two"), ("new", "x y"), ("same", " three")]),
    ],
)
def test_what_went_stands_before_what_came(before: str, after: str, told: list[tuple[str, str]]) -> None:
    assert [tuple(part) for part in word_difference(before, after)] == told


@given(TEXTS, TEXTS)
def test_both_texts_can_be_read_out_of_it(before: str, after: str) -> None:
    parts = word_difference(before, after)
    assert "".join(part.text for part in parts if part.kind != "new") == before
    assert "".join(part.text for part in parts if part.kind != "gone") == after
    assert all(one.kind != other.kind for one, other in pairwise(parts))


def test_very_long_texts_are_replaced_as_a_whole() -> None:
    long = "a b " * MOST
    assert word_difference(long, "a") == [Part("gone", long), Part("new", "a")]
