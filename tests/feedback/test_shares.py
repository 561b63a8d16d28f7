"""The certainty of shares."""

from __future__ import annotations

import pytest

from feedback.shares import wilson_low


def test_wilsons_lower_end_is_that_of_the_tables() -> None:
    assert wilson_low(0, 0, 1.96) == 0.0
    assert wilson_low(8, 10, 1.96) == pytest.approx(0.4902, abs=5e-4)
    assert wilson_low(50, 50, 1.96) == pytest.approx(0.9287, abs=5e-4)
