"""The order of examples, and what the settings that choose by themselves choose."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.batches import Batches, Order, fitting
from trainer.hyperparameters import chosen_epochs, chosen_rate, rate_at

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 32), st.integers(0, 5))
def test_an_epoch_has_every_example_once_in_batches_no_larger_than_asked(
    lengths: list[int], batch: int, seed: int
) -> None:
    batches = Batches(lengths, batch, random.Random(seed))
    assert sorted(index for one in batches for index in one) == list(range(len(lengths)))
    assert all(1 <= len(one) <= batch for one in batches)
    assert list(Batches(lengths, batch, random.Random(seed))) == list(batches)


@given(LENGTHS, st.integers(1, 8192))
def test_a_batch_is_cut_so_that_its_padding_fits_and_nothing_is_lost(lengths: list[int], room: int) -> None:
    parts = fitting(range(len(lengths)), lengths, room)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * max(lengths[index] for index in part) <= room for part in parts)


def test_batches_of_like_lengths_need_far_less_padding_and_stay_in_random_order() -> None:
    lengths = [random.Random(n).randint(1, 400) for n in range(1024)]
    batches = Batches(lengths, 16, random.Random(0))
    padded = sum(len(one) * max(lengths[index] for index in one) for one in batches)
    assert padded < 1.15 * sum(lengths)
    longest = [max(lengths[index] for index in one) for one in batches]
    assert longest != sorted(longest)
    assert list(Batches(lengths, 16, random.Random(1))) != list(batches)


def test_large_bases_learn_at_the_usual_rate_and_tiny_ones_faster() -> None:
    assert chosen_rate(7_000_000_000) == pytest.approx(2e-4)
    assert chosen_rate(1_000_000) == pytest.approx(3e-3)
    sizes = [10**power for power in range(5, 12)]
    assert [chosen_rate(size) for size in sizes] == sorted(
        (chosen_rate(size) for size in sizes), reverse=True
    )
    assert [chosen_epochs(size) for size in (1_000_000, 200_000_000, 7_000_000_000)] == [8, 5, 3]


@given(st.integers(1, 5000))
def test_the_rate_warms_up_to_its_peak_and_falls_to_a_twentieth(steps: int) -> None:
    rates = [rate_at(step, steps, 1.0) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(
        rates[peak:], reverse=True
    )
    assert min(rates) > 0
    assert rate_at(steps, steps, 1.0) == pytest.approx(0.05) or steps == 1


@given(LENGTHS, st.integers(1, 32), st.integers(0, 5), st.randoms())
def test_a_steps_number_alone_says_what_it_takes(
    lengths: list[int], batch: int, seed: int, chance: random.Random
) -> None:
    order = Order(lengths, batch, seed)
    straight = [order.at(step) for step in range(3 * order.per_epoch)]
    rng = random.Random(seed)
    assert [taken for _, taken in straight] == [
        taken for _ in range(3) for taken in Batches(lengths, batch, rng)
    ]
    jumping = chance.sample(range(len(straight)), min(5, len(straight)))
    assert [order.at(step) for step in jumping] == [straight[step] for step in jumping]
