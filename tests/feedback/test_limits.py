"""Limits as they are written, kept with a key, and handed to the gateway."""

from __future__ import annotations

from datetime import timedelta

import pytest

from feedback.access.keys import create_key, hash_secret, list_keys
from feedback.access.limits import Limits, parse_limits, read_limits, shown_limits, stored_limits
from feedback.errors import BadFieldError
from feedback.registry.snapshot import load_snapshot
from feedback.storage.database import Database
from tests.feedback.records import NOW


def test_limits_are_written_as_names_and_numbers() -> None:
    assert parse_limits("rpm=600, tpm = 100000,concurrent=8") == Limits(rpm=600, tpm=100_000, concurrent=8)
    assert parse_limits("tpm=1") == Limits(tpm=1)
    assert parse_limits("") is None and parse_limits(" , ") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rps=5", "there is no limit 'rps'; there are rpm, tpm, concurrent"),
        ("rpm", "write rpm=600"),
        ("rpm=", "write rpm=600"),
        ("rpm=0", "above 0"),
        ("rpm=-1", "above 0"),
        ("rpm=1.5", "whole number"),
        ("rpm=١٢", "whole number"),
        ("rpm=" + "9" * 5000, "whole number"),
        ("rpm=1,rpm=2", "given twice"),
    ],
)
def test_a_limit_that_is_none_is_told(text: str, told: str) -> None:
    with pytest.raises(BadFieldError, match=r"^limits: ") as refused:
        parse_limits(text)
    assert told in str(refused.value)


def test_limits_are_kept_with_the_key_and_go_to_the_gateway(database: Database) -> None:
    limits = Limits(rpm=600, concurrent=8)
    with database.session() as session:
        _, secret = create_key(session, ["infer"], "web", None, NOW, limits)
        _, free = create_key(session, ["infer"], "web", None, NOW + timedelta(seconds=1))
        session.commit()
    with database.reading() as session:
        first, second = list_keys(session)
        grants = load_snapshot(session).keys
    assert (first.limits, second.limits) == ({"rpm": 600, "concurrent": 8}, None)
    assert (grants[hash_secret(secret)].limits, grants[hash_secret(free)].limits) == (limits, None)


def test_what_is_stored_and_shown_reads_back_as_it_was() -> None:
    for limits in (None, Limits(tpm=3), Limits(rpm=1, tpm=2, concurrent=3)):
        stored = stored_limits(limits)
        assert read_limits(stored) == limits
        assert parse_limits(shown_limits(stored) or "") == limits
