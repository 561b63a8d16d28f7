"""What pages make of times and sentences before a script touches them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from server.rendering import code, moment, moment_text

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "when",
    [
        NOON,
        NOON.timestamp(),
        int(NOON.timestamp()),
        "2026-01-01T12:00:00+00:00",
        "2026-01-01T12:00:00",
        "2026-01-01T21:00:00+09:00",
        NOON.astimezone(timezone(timedelta(hours=9))),
    ],
    ids=str,
)
def test_a_time_in_any_form_is_one_that_a_script_can_tell_in_the_readers_zone(
    when: float | str | datetime,
) -> None:
    assert moment(when) == '<time datetime="2026-01-01T12:00:00+00:00">2026-01-01 12:00 UTC</time>'
    assert moment_text(when) == "2026-01-01 12:00 UTC"


def test_what_stands_between_backticks_is_code_and_nothing_is_markup() -> None:
    assert code("run `a <b>` & wait`") == "run <code>a &lt;b&gt;</code> &amp; wait`"
