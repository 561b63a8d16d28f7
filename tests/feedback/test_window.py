"""The hours in which trainings may begin."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from feedback.errors import SettingsError
from feedback.settings_file import load
from feedback.window import Window, waits_for


def at(hour: int, minute: int = 0, day: int = 1) -> datetime:
    return datetime(2026, 3, day, hour, minute, 30, tzinfo=UTC)


def parsed(text: str) -> Window:
    window = Window.parse(text)
    assert window is not None
    return window


def test_nothing_is_any_time() -> None:
    assert Window.parse("") is None


@pytest.mark.parametrize(
    ("text", "open_", "closed"),
    [
        ("02:00-05:00", [(2, 0), (3, 30), (4, 59)], [(1, 59), (5, 0), (14, 0)]),
        ("22:30-04:00", [(22, 30), (23, 59), (0, 0), (3, 59)], [(22, 29), (4, 0), (12, 0)]),
        ("00:00-24:00", [(0, 0), (23, 59)], []),
        ("20:00-00:00", [(20, 0), (23, 59)], [(0, 0), (19, 59)]),
    ],
)
def test_it_is_open_from_its_first_minute_to_the_one_before_its_end(
    text: str, open_: list[tuple[int, int]], closed: list[tuple[int, int]]
) -> None:
    window = parsed(text)
    assert [window.open_at(at(*time)) for time in open_] == [True] * len(open_)
    assert [window.open_at(at(*time)) for time in closed] == [False] * len(closed)


def test_it_opens_and_closes_next_today_or_tomorrow() -> None:
    window = parsed("22:30-04:00")
    assert window.opens(at(12)) == datetime(2026, 3, 1, 22, 30, tzinfo=UTC)
    assert window.opens(at(23)) == datetime(2026, 3, 2, 22, 30, tzinfo=UTC)
    assert window.closes(at(23)) == datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
    assert window.closes(at(3)) == datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
    assert parsed("00:00-24:00").closes(at(3)) == datetime(2026, 3, 2, tzinfo=UTC)
    assert "opens 02 Mar 22:30" in waits_for(window, at(23))


@pytest.mark.parametrize("text", ["2-5", "02:00", "02:00-02:00", "25:00-03:00", "24:00-03:00", "02:00-24:01"])
def test_what_is_no_window_is_refused_with_the_form_that_is(text: str) -> None:
    with pytest.raises(SettingsError, match=r"training\.window: .* is no window; write two different times"):
        load(None, {"STARLOOP_TRAINING__WINDOW": text})
