"""What a schedule of five fields means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from feedback.cron import cron_trigger


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * *", "2026-03-02T03:00"),
        ("30 2 1 * *", "2026-04-01T02:30"),
        ("0 3 * * 0", "2026-03-08T03:00"),
        ("0 3 * * 7", "2026-03-08T03:00"),
        ("0 3 * * 1-5", "2026-03-02T03:00"),
        ("0 3 * * SAT", "2026-03-07T03:00"),
        ("0 3 * * 2,4", "2026-03-03T03:00"),
        ("0 3 * * */3", "2026-03-04T03:00"),
        ("*/15 * * * *", "2026-03-01T04:15"),
        ("0 3 20 * 4", "2026-03-05T03:00"),
        ("0 3 3 * 4", "2026-03-03T03:00"),
        ("0 3 31 2 mon", "2027-02-01T03:00"),
        ("0 3 */2 * 2", "2026-03-03T03:00"),
    ],
)
def test_cron_means_what_it_means_everywhere_in_utc(expression: str, expected: str) -> None:
    sunday = datetime(2026, 3, 1, 4, 1, tzinfo=UTC)
    fires = cron_trigger(expression).get_next_fire_time(None, sunday)
    assert fires == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "expression", ["daily", "0 3 * *", "61 * * * *", "0 3 * * 8", "0 3 * * 5-2", "0 3 * * mo"]
)
def test_an_unknown_schedule_is_refused_with_its_text(expression: str) -> None:
    with pytest.raises(ValueError, match="is no schedule") as caught:
        cron_trigger(expression)
    assert repr(expression) in str(caught.value)


@pytest.mark.parametrize("expression", ["0 3 30 2 *", "0 3 31 4,6 *", "0 3 31 2 */2"])
def test_a_schedule_that_never_comes_is_refused_with_the_reason(expression: str) -> None:
    with pytest.raises(ValueError, match="so it never comes"):
        cron_trigger(expression)


def test_a_schedule_that_comes_seldom_is_none_that_never_comes() -> None:
    fires = cron_trigger("0 3 29 2 */7").get_next_fire_time(None, datetime(2026, 3, 1, tzinfo=UTC))
    assert fires == datetime(2032, 2, 29, 3, tzinfo=UTC)
