"""Encoded examples are kept on the disk: what comes back is what went in, and memory does not grow with their number."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import examples
from trainer.batches import Order, fitting
from trainer.examples import IGNORED, Encoded, Numbers, StoredExamples, lengths_of

ROWS = st.builds(
    lambda name, tokens, on, weight, new: Encoded(
        name, tokens, [one if on else IGNORED for one in tokens], weight, new
    ),
    st.text(max_size=9),
    st.lists(st.integers(0, 1 << 20), min_size=1, max_size=40),
    st.booleans(),
    st.floats(0, 1),
    st.booleans(),
)


@given(st.lists(ROWS, max_size=20))
def test_what_was_stored_comes_back_whole_in_any_order(rows: list[Encoded]) -> None:
    stored = StoredExamples()
    for row in rows:
        stored.append(row)
    assert list(reversed(stored)) == rows[::-1]
    assert (list(stored), stored[1:-1], len(stored)) == (rows, rows[1:-1], len(rows))
    assert list(lengths_of(stored)) == lengths_of(rows)
    assert stored.trained == sum(row.trained for row in rows)
    with pytest.raises(IndexError):
        stored[len(rows)]


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=40), st.integers(1, 9))
def test_numbers_come_back_one_by_one_and_by_the_page(numbers: list[int], page: int) -> None:
    stored = Numbers(None, numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "_PAGE", page)
        assert list(stored) == numbers
    assert [stored[place] for place in range(-len(numbers), len(numbers))] == numbers * 2
    assert (stored[1:-1], len(stored), stored.total) == (numbers[1:-1], len(numbers), sum(numbers))
    with pytest.raises(IndexError):
        stored[len(numbers)]


def test_the_order_is_the_same_wherever_lengths_are_kept() -> None:
    lengths = [1 + number * 7919 % 61 for number in range(3000)]
    plain, stored = Order(lengths, 16, 3), Order(Numbers(None, lengths), 16, 3)
    assert [plain.at(step) for step in range(400)] == [stored.at(step) for step in range(400)]
    assert fitting(range(99), lengths, 256) == fitting(range(99), Numbers(None, lengths), 256)


def test_what_is_added_after_reading_is_there_too() -> None:
    stored = StoredExamples()
    for number in range(3):
        stored.append(Encoded(str(number), [1], [1], 1.0, False))
        assert stored[-1].id == str(number)


def test_no_file_is_left_and_none_can_be_seen(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    stored = StoredExamples(tmp_path)
    stored.append(Encoded("a", [1], [1], 1.0, False))
    assert (stored[0].id, list(tmp_path.iterdir())) == ("a", [])
    del stored
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_full_disk_is_an_error_of_the_file_and_not_a_short_example(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes, place: int) -> int:
        if place:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, content[:3], place)

    written = os.pwrite
    stored = StoredExamples()
    monkeypatch.setattr(examples.os, "pwrite", full)
    stored.append(Encoded("a", [1, 2, 3], [1, 2, 3], 1.0, False))
    with pytest.raises(OSError, match="No space left"):
        stored[0]


def test_a_hundred_times_as_many_examples_take_no_more_than_their_order() -> None:
    def taken(count: int) -> int:
        tracemalloc.start()
        stored = StoredExamples()
        for number in range(count):
            stored.append(Encoded(str(number), list(range(60)), list(range(60)), 1.0, False))
        order = Order(stored.lengths, 16, 0)
        assert len(stored[order.at(0)[1][0]].tokens) == 60
        tracemalloc.reset_peak()
        order.at(order.per_epoch)  # the next epoch's order beside the last one's
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = (
        min(taken(count) for _ in range(3)) for count in (500, 50_000)
    )  # others' threads are traced too
    assert (many - few) / 49_500 < 6, "the order of an epoch, and no more"
