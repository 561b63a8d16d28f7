"""Early stopping: noise neither stops a training nor chooses its weights; getting worse for certain does."""

from __future__ import annotations

import math
import random

from trainer.stopping import LEAST_TO_CHOOSE, Watch, worse_beyond_chance


def losses(mean: float, spread: float, seed: int, count: int = 200) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, spread) for _ in range(count)]


def see(watch: Watch, step: int, seen: list[float]) -> bool:
    return watch.see(step, sum(seen) / len(seen), seen)


def test_noise_around_the_same_loss_never_stops_a_training() -> None:
    for trial in range(20):
        watch = Watch(patience=3)
        for step in range(1, 41):
            see(watch, step, losses(1.0, 0.5, 1000 * trial + step))
            assert not watch.over


def test_a_loss_that_rises_for_certain_stops_it_and_keeps_the_weights_from_before() -> None:
    watch = Watch(patience=3)
    assert see(watch, 1, losses(2.0, 0.2, 1))
    assert see(watch, 2, losses(1.0, 0.2, 2))
    for step in (3, 4, 5):
        assert not watch.over
        assert not see(watch, step, losses(1.5, 0.2, step))
    assert watch.over
    assert watch.kept_step == 2


def test_of_checks_that_chance_may_have_told_apart_the_later_is_kept() -> None:
    watch = Watch(patience=3)
    best = losses(1.0, 0.5, 1)
    assert see(watch, 1, best)
    wavering = [loss + (0.05 if number % 2 else -0.04) for number, loss in enumerate(best)]
    assert see(watch, 2, wavering)
    assert watch.kept_step == 2


def test_small_losses_in_a_row_that_add_up_are_noticed_against_the_lowest() -> None:
    watch = Watch(patience=1)
    best = losses(1.0, 0.5, 1)
    see(watch, 1, best)
    for step in range(2, 60):
        see(watch, step, [loss + 0.001 * step + random.Random(step).gauss(0, 0.1) for loss in best])
        if watch.over:
            break
    assert watch.over
    assert watch.kept_step < 59


def test_too_few_examples_choose_nothing_so_the_last_weights_are_kept() -> None:
    watch = Watch(patience=1)
    few = LEAST_TO_CHOOSE - 1
    for step, mean in ((1, 1.0), (2, 5.0), (3, 9.0)):
        assert see(watch, step, losses(mean, 0.1, step, few))
    assert not watch.over
    assert watch.kept_step == 3


def test_a_patience_that_was_used_comes_back_with_a_check_that_is_not_worse() -> None:
    watch = Watch(patience=2)
    best = losses(1.0, 0.2, 1)
    see(watch, 1, best)
    see(watch, 2, [loss + 0.5 for loss in best])
    see(watch, 3, list(best))
    see(watch, 4, [loss + 0.5 for loss in best])
    assert not watch.over


def test_nothing_is_kept_before_the_first_check() -> None:
    assert Watch(3).kept_loss == math.inf


def test_chance_alone_hardly_ever_calls_a_rise() -> None:
    called = sum(
        worse_beyond_chance(losses(1.0, 0.3, 2 * trial), losses(1.0, 0.3, 2 * trial + 1))
        for trial in range(2000)
    )
    assert called / 2000 < 0.005


def test_a_single_example_proves_nothing() -> None:
    assert not worse_beyond_chance([9.0], [1.0])
