"""When a key ends, as people write it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from feedback.access.expiry import parse_expiry
from feedback.access.keys import create_key, hash_secret, list_keys
from feedback.errors import BadFieldError
from feedback.registry.snapshot import load_snapshot
from feedback.storage.database import Database
from tests.feedback.records import NOW


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("4w", NOW + timedelta(weeks=4)),
        ("2300-01-31", datetime(2300, 1, 31, tzinfo=UTC)),
        ("2300-01-31T12:00", datetime(2300, 1, 31, 12, tzinfo=UTC)),
        ("2300-01-31T12:00:00+02:00", datetime(2300, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_time_from_now_or_a_date(text: str, moment: datetime) -> None:
    assert parse_expiry(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "0d", "-3d", "90", "9m", "999999d", "2300-13-01", "٩d", "1d\n"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(BadFieldError, match=r"expires: .* is no time"):
        parse_expiry(text, NOW)


def test_what_is_past_is_told_also_this_very_moment() -> None:
    with pytest.raises(BadFieldError, match="is past"):
        parse_expiry(NOW.isoformat(), NOW)
    assert parse_expiry((NOW + timedelta(microseconds=1)).isoformat(), NOW) > NOW


def test_the_gateway_knows_of_an_expired_key_so_that_it_can_say_so(database: Database) -> None:
    with database.session() as session:
        _, secret = create_key(session, ["infer"], "web", None, NOW, expires=NOW + timedelta(days=1))
        session.commit()
    with database.reading() as session:
        ends = (NOW + timedelta(days=1)).timestamp()
        assert [key.expires for key in list_keys(session)] == [ends]
        snapshot = load_snapshot(session)
    assert snapshot.keys[hash_secret(secret)].expires == ends and snapshot.any_key
