"""Early stopping: real overfitting ends a training, noise does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trainer.stopping import LEAST_TO_CHOOSE, Watch, worse_beyond_chance

CHECKS = 32


def stopped_at(trend: Callable[[int], float], seed: int, examples: int = 200) -> int | None:
    """The check at which a simulated training stops: examples of unlike difficulty, each noisy from check to check."""
    generator = np.random.default_rng(seed)
    difficulty = generator.gamma(1.0, 1.0, examples)
    watch = Watch(patience=3)
    for check in range(1, CHECKS + 1):
        losses = difficulty + trend(check) + generator.normal(0.0, 0.3, examples)
        watch.see(check, float(losses.mean()), losses.tolist())
        if watch.over:
            return check
    return None


def overfitting(check: int) -> float:
    return -0.1 * min(check, 8) + 0.1 * max(check - 8, 0)


@pytest.mark.parametrize(
    "trend",
    [lambda check: 0.0, lambda check: -0.1 * min(check, 8), lambda check: -0.02 * check],
    ids=["flat", "a plateau", "falling slowly"],
)
@pytest.mark.parametrize("examples", [LEAST_TO_CHOOSE, 500])
def test_noise_ends_hardly_any_training(trend: Callable[[int], float], examples: int) -> None:
    stops = [stopped_at(trend, seed, examples) for seed in range(200)]
    assert sum(stop is not None for stop in stops) <= 0.05 * len(stops)


def test_overfitting_ends_every_training_soon_after_its_best_check() -> None:
    stops = [stopped_at(overfitting, seed) for seed in range(200)]
    assert all(stop is not None and 11 <= stop <= 16 for stop in stops)


def test_a_check_that_is_worse_for_certain_is_not_kept() -> None:
    watch = Watch(patience=10)
    kept = [
        watch.see(step, mean, [mean] * 200) for step, mean in enumerate([3.0, 2.0, 2.5, 1.5, 1.6], start=1)
    ]
    assert kept == [True, True, False, True, False]
    assert (watch.kept_step, watch.kept_loss) == (4, 1.5)


def test_a_new_best_forgives_what_was_worse_before() -> None:
    watch = Watch(patience=2)
    for step, mean in enumerate([2.0, 2.5, 1.5, 1.6], start=1):
        watch.see(step, mean, [mean + n * 1e-4 for n in range(200)])
    assert watch.worse == 1 and not watch.over
    watch.see(5, 1.7, [1.7 + n * 1e-4 for n in range(200)])
    assert watch.over


def test_of_checks_that_chance_may_have_told_apart_the_later_is_kept() -> None:
    generator = np.random.default_rng(2)
    watch = Watch(patience=3)
    first = generator.normal(1.0, 0.5, 200)
    later = first + 0.05 + generator.normal(0.0, 0.5, 200)
    assert later.mean() > first.mean()
    assert watch.see(1, float(first.mean()), first.tolist())
    assert watch.see(2, float(later.mean()), later.tolist())
    assert watch.kept_step == 2


def test_small_rises_that_add_up_are_noticed_against_the_lowest() -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(1.0, 0.5, 200)
    watch = Watch(patience=1)
    for check in range(CHECKS):
        losses = first + 0.005 * check + generator.normal(0.0, 0.1, 200)
        watch.see(check, float(losses.mean()), losses.tolist())
    assert watch.over


def test_few_examples_choose_nothing_so_the_last_check_is_kept() -> None:
    watch = Watch(patience=1)
    few = LEAST_TO_CHOOSE - 1
    assert all(watch.see(step, float(step), [float(step)] * few) for step in range(1, 9))
    assert watch.kept_step == 8 and not watch.over


def test_a_rise_must_exceed_what_its_own_spread_explains() -> None:
    generator = np.random.default_rng(4)
    before = generator.normal(1.0, 5.0, 400)
    steady, wild = before + 0.1 + generator.normal(0, 0.2, 400), before + 0.1 + generator.normal(0, 5.0, 400)
    assert worse_beyond_chance(steady.tolist(), before.tolist())
    assert not worse_beyond_chance(wild.tolist(), before.tolist())
    assert not worse_beyond_chance(before.tolist(), steady.tolist())
    assert not worse_beyond_chance([2.0], [1.0])


def test_without_a_difference_one_pair_seems_worse_one_time_in_twenty() -> None:
    generator = np.random.default_rng(9)
    pairs = [(generator.normal(size=150), generator.normal(size=150)) for _ in range(2000)]
    share = np.mean([worse_beyond_chance(now.tolist(), then.tolist()) for now, then in pairs])
    assert 0.035 < share < 0.065
