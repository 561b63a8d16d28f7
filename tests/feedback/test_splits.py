"""Sides depend on keys alone (invariant 4)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feedback.datasets.splits import group_side, row_side, user_key, user_side, validates

KEYS = st.text(max_size=80)
SHARES = st.floats(0.01, 0.9)


@given(KEYS, KEYS, SHARES)
def test_a_row_is_used_only_where_group_and_user_agree(group: str, user: str, share: float) -> None:
    sides = {group_side(group, share), user_side(user, share)}
    assert row_side(group, user, share) == (sides.pop() if len(sides) == 1 else None)


def test_about_the_share_of_groups_is_for_evaluation() -> None:
    held = sum(group_side(f"group {n}", 0.1) == "evaluation" for n in range(10_000))
    assert 900 < held < 1100  # three standard deviations are 90


def test_group_and_user_are_independent_even_with_equal_keys() -> None:
    """Otherwise a user whose name equals a group's key would always agree with it."""
    used = sum(row_side(str(n), str(n), 0.1) is not None for n in range(10_000))
    assert 8_000 < used < 8_400  # 0.1² + 0.9² = 0.82


def test_validation_is_independent_of_the_side() -> None:
    trained = [str(n) for n in range(10_000) if group_side(str(n), 0.1) == "train"]
    held = sum(validates(key, 0.1) for key in trained) / len(trained)
    assert 0.09 < held < 0.11


def test_a_conversation_stands_for_an_unknown_user_and_the_inference_for_neither() -> None:
    assert user_key("ann", "talk", "1") == user_key("ann", "another", "2")
    assert user_key(None, "talk", "1") == user_key("", "talk", "2") != user_key(None, "another", "1")
    assert user_key(None, None, "1") != user_key(None, None, "2")
    assert user_key("x", None, "1") != user_key(None, "x", "1")
