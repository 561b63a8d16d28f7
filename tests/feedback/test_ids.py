"""Identifiers: UUIDv7 that carry their time, sort by it, and are found again in what clients hold."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.errors import BadFieldError
from feedback.ids import new_id, parse_id, time_of

NOW = datetime(2026, 3, 1, 12, 30, 45, 123_000, tzinfo=UTC)
EARLIEST, LATEST = datetime(1970, 1, 2), datetime(2200, 1, 1)
MOMENTS = st.datetimes(min_value=EARLIEST, max_value=LATEST, timezones=st.just(UTC))


def test_an_id_is_a_uuid_of_version_7_and_of_the_standard_variant() -> None:
    made = uuid.UUID(new_id(NOW))

    assert made.version == 7
    assert made.variant == uuid.RFC_4122


@given(MOMENTS)
def test_an_id_gives_back_its_moment_to_the_millisecond(moment: datetime) -> None:
    assert abs(time_of(new_id(moment)) - moment) < timedelta(milliseconds=1.001)


@given(st.lists(MOMENTS, min_size=2, max_size=20))
def test_ids_sort_by_their_time(moments: list[datetime]) -> None:
    ids = [new_id(moment) for moment in sorted(moments)]

    times = [time_of(identifier) for identifier in ids]
    assert times == sorted(times)
    assert [identifier[:13] for identifier in ids] == sorted(identifier[:13] for identifier in ids)


def test_ids_sort_by_their_time_within_a_millisecond_too() -> None:
    ids = [new_id(NOW + timedelta(microseconds=step)) for step in range(2000)]

    assert ids == sorted(ids)


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id(NOW) for _ in range(10_000)}) == 10_000


def test_every_free_bit_is_random() -> None:
    values = [uuid.UUID(new_id(NOW)).int for _ in range(200)]
    seen_one, seen_zero = 0, 0
    for value in values:
        seen_one |= value
        seen_zero |= ~value
    both = seen_one & seen_zero & ((1 << 128) - 1)

    assert both.bit_count() == 62


@pytest.mark.parametrize("prefix", ["", "chatcmpl-", "cmpl-"])
def test_an_id_is_taken_with_and_without_the_prefix_of_the_engine(prefix: str) -> None:
    identifier = new_id(NOW)

    assert parse_id(prefix + identifier) == identifier


def test_capital_letters_mean_the_same_id() -> None:
    identifier = new_id(NOW)

    assert parse_id(identifier.upper()) == identifier


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chatcmpl-",
        "nonsense",
        "chatcmpl-00000000-0000-0000-0000-000000000000",
        "5f0c6a0e-3f0e-4c6a-9d2e-0a4c3b2f1e0d",  # version 4
        "019f0c6a0e3f7c6a9d2e0a4c3b2f1e0d",  # without hyphens
        "{019f0c6a-0e3f-7c6a-9d2e-0a4c3b2f1e0d}",
        "urn:uuid:019f0c6a-0e3f-7c6a-9d2e-0a4c3b2f1e0d",
        "019f0c6a-0e3f-7c6a-9d2e-0a4c3b2f1e0d ",
        "../../etc/passwd",
        "x" * 100_000,
    ],
)
def test_anything_else_is_refused_with_the_field_named(text: str) -> None:
    with pytest.raises(BadFieldError) as caught:
        parse_id(text)

    assert caught.value.field == "inference_id"
    assert len(str(caught.value)) < 200


def test_the_field_of_the_error_can_be_named() -> None:
    with pytest.raises(BadFieldError, match=r"^case_id: "):
        parse_id("nonsense", field="case_id")


def test_no_two_ids_of_one_moment_are_equal_in_threads_and_in_a_fork() -> None:
    new_id(NOW)  # random bytes are fetched for many ids at once: a fork must not go on with the same ones
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "\n".join(new_id(NOW) for _ in range(300)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        made = told.read().split()
    os.waitpid(child, 0)
    with ThreadPoolExecutor(4) as pool:
        made += pool.map(lambda _: new_id(NOW), range(4000))
    assert len(made) == len(set(made)) == 4300
