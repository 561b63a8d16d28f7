"""Each diagnosis, provoked for real on a tiny model, and what the training does about it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel

from feedback.errors import StarloopError, UnsoundAdapterError
from tests.trainer.tiny import COLOURS, row, training_spec, write_dataset
from trainer import diagnosis, finetune, objectives
from trainer.base_model import load_base
from trainer.diagnosis import Check

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
ROWS = [row(number) for number in range(24)]

Run = Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]


@pytest.fixture
def run(tiny_base: Path, tmp_path: Path) -> Run:
    """Train on rows; the facts and the events."""

    def train(
        train: Iterable[dict[str, Any]],
        validation: Iterable[dict[str, Any]],
        name: str = "out",
        **changes: Any,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        data = write_dataset(tmp_path / f"data-{name}", train, validation)
        asked = training_spec(tiny_base, data, tmp_path / name, **({"checkpoint_seconds": 600.0} | changes))
        events: list[dict[str, Any]] = []
        facts = finetune.main(msgspec.to_builtins(asked), events.append)
        return facts, events

    return train


def kinds(facts: dict[str, Any]) -> list[str]:
    return [one["kind"] for one in facts["diagnoses"]]


def lawless(number: int, **changes: Any) -> dict[str, Any]:
    """An answer that nothing in the prompt explains."""
    return row(number, answer=COLOURS[hash((number, 7)) % len(COLOURS)], **changes)


def test_a_sound_training_has_nothing_to_say(run: Run) -> None:
    facts, events = run(ROWS, ROWS * 5, epochs=12)
    assert facts["diagnoses"] == []
    assert all(event["noticed"] == [] for event in events)


def test_overfitting_is_said_with_the_losses_and_the_step_that_is_kept(run: Run) -> None:
    facts, events = run(map(lawless, range(16)), map(lawless, range(1000, 1200)), epochs=150)
    (one,) = (one for one in facts["diagnoses"] if one["kind"] == "overfitting")
    assert one["text"].startswith(f"overfitting: since step {facts['best_step']} the loss on validation")
    assert one["remedy"] == f"the weights of step {facts['best_step']} are kept, and the training ended there"
    assert any("overfitting" in text for text in events[-1]["noticed"])


def test_a_rate_too_low_to_learn_is_said_to_be_flat(run: Run) -> None:
    facts, _ = run(ROWS, ROWS, epochs=4, learning_rate=1e-8)
    assert kinds(facts) == ["flat"]
    assert "the learning rate (1e-08) or the rank (16) is too low" in facts["diagnoses"][0]["text"]


@pytest.fixture
def going_back(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said where a training goes back, also of one that ends without facts."""
    told: list[str] = []
    real = diagnosis.diverged

    def diverged(*arguments: Any) -> diagnosis.Diagnosis:
        made = real(*arguments)
        told.append(f"{made.kind}: {made.text}; {made.remedy}")
        return made

    monkeypatch.setattr(diagnosis, "diverged", diverged)
    return told


def test_numbers_that_are_not_finite_lower_the_rate_once_and_name_the_batch(
    run: Run, going_back: list[str]
) -> None:
    """At a rate of 10 gradients overflow within three steps; at a quarter of it they stay finite, though what is learned
    there is fit for no engine."""
    with pytest.raises(UnsoundAdapterError, match="overflows half precision"):
        run(ROWS, ROWS, epochs=2, learning_rate=10.0)
    (one,) = going_back
    assert one.startswith(
        "not_finite: at step 3 the loss was not a finite number; the batch: 8 examples: example-"
    )
    assert one.endswith("went back to the weights of step 0 and goes on at a rate of 2.5 instead of 10")


def test_a_look_whose_numbers_are_not_finite_lowers_the_rate_before_it_ends_the_training(
    run: Run, going_back: list[str]
) -> None:
    """The first step's own loss is the base's; what it did to the weights shows on the validation examples."""
    with pytest.raises(UnsoundAdapterError, match=r"lowering the rate once did not help.* below 2\.5e\+19"):
        run(ROWS[:8], ROWS, epochs=3, learning_rate=1e20)
    (one,) = going_back
    assert one.startswith("not_finite: at step 1 the loss was not a finite number; on validation examples;")


@pytest.fixture
def taught(run: Run, tiny_base: Path, tmp_path: Path) -> Callable[[list[dict[str, Any]], int], str]:
    """Makes a base that has learned rows already."""

    def teach(rows: list[dict[str, Any]], epochs: int) -> str:
        run(rows, [], "teaching", epochs=epochs)
        loaded = load_base(str(tiny_base))
        model = PeftModel.from_pretrained(loaded.model, str(tmp_path / "teaching" / "adapter"))
        model.merge_and_unload().save_pretrained(tmp_path / "taught")
        loaded.tokenizer.save_pretrained(tmp_path / "taught")
        return str(tmp_path / "taught")

    return teach


def test_a_loss_that_bursts_sends_the_training_back_and_it_comes_down_again(
    run: Run, taught: Callable[[list[dict[str, Any]], int], str]
) -> None:
    """A base that knows its task, trained at a rate that at once undoes it."""
    facts, events = run(ROWS, ROWS, "on", epochs=3, learning_rate=0.08, base_path=taught(ROWS, 80))
    assert facts["diagnoses"][0]["kind"] == "spike"
    first = next(event for event in events if event["noticed"])
    assert "jumped to" in first["noticed"][0]
    assert "goes on at a rate of 0.02 instead of 0.08" in first["noticed"][0]
    assert facts["steps"] == 9
    highest = max(event["loss"] for event in events if "loss" in event)
    assert facts["history"][-1]["train"] < 0.8 * highest


def test_losses_that_rise_together_send_the_training_back_to_its_best_weights_at_a_lower_rate(
    run: Run,
) -> None:
    facts, events = run(map(row, range(96)), map(row, range(96, 256)), epochs=20, learning_rate=0.028)
    (one,) = (one for one in facts["diagnoses"] if one["kind"] == "unstable")
    kept = int(re.findall(r"since step (\d+)", one["text"])[0])
    assert kept < one["step"] and "goes on at a rate of 0.007 instead of 0.028" in one["remedy"]
    told = [event["step"] for event in events if event["step"]]
    after = told.index(one["step"]) + 1
    assert told[after] == kept + 1, "the steps since are made again"
    noticed = [event["step"] for event in events if any("unstable" in said for said in event["noticed"])]
    assert noticed == [kept + 1], "on a line that stays in the record"
    best = next(check["validation"] for check in facts["history"] if check["step"] == kept)
    assert facts["validation_loss"] < 0.95 * best
    assert facts["learning_rate"] == pytest.approx(0.007), "the one that made the weights"


def test_a_first_check_that_is_worse_than_the_base_sends_the_training_back_to_it(
    run: Run, taught: Callable[[list[dict[str, Any]], int], str]
) -> None:
    """A base that knows its task, at a rate that undoes it within ten steps but bursts at none of them."""
    base = taught(list(map(row, range(96))), 12)
    facts, _ = run(
        map(row, range(96, 192)), map(row, range(200, 360)), epochs=8, learning_rate=0.06, base_path=base
    )
    (one,) = facts["diagnoses"]
    assert (one["kind"], one["step"]) == ("unstable", 10) and "since step 0" in one["text"]
    assert "went back to the weights of step 0 and goes on at a rate of 0.015" in one["remedy"]
    untrained, last = facts["history"][0], facts["history"][-1]
    assert last["validation"] < 1.1 * untrained["validation"]


def test_weights_that_are_worse_than_none_are_said_to_be(
    run: Run, taught: Callable[[list[dict[str, Any]], int], str]
) -> None:
    """A rate so high that a quarter of it undoes the base too."""
    base = taught(list(map(row, range(96))), 12)
    facts, _ = run(
        map(row, range(96, 192)), map(row, range(200, 360)), epochs=5, learning_rate=0.2, base_path=base
    )
    one = facts["diagnoses"][-1]
    assert kinds(facts) == ["spike", "harmful"] and "the learning rate (0.05) is too high" in one["text"]
    assert f"is {facts['validation_loss']:.3f} at its best" in one["text"]


def test_a_last_check_that_sends_the_training_back_is_not_called_flat(
    run: Run, taught: Callable[[list[dict[str, Any]], int], str]
) -> None:
    """The base knows the short rows; the long ones, which this seed puts last, say the contrary."""

    def contrary(number: int) -> dict[str, Any]:
        asked = row(number)["messages"][0]["content"] + " please say it now" * 3
        answer = COLOURS[(number % 6 + 1) % len(COLOURS)]
        return row(number, messages=[{"role": "user", "content": asked}], answer=answer)

    rows = [*map(row, range(80)), *map(contrary, range(80))]
    facts, _ = run(
        rows, map(row, range(96, 256)), epochs=1, learning_rate=0.006, seed=79,
        base_path=taught(list(map(row, range(96))), 6),
    )  # fmt: skip
    (unstable,) = facts["diagnoses"]
    assert (unstable["kind"], unstable["step"]) == ("unstable", facts["steps"])
    first, last = facts["history"][0]["validation"], facts["history"][-1]["validation"]
    assert last < 0.95 * first, "something was learned"


def test_validation_below_training_throughout_is_said_to_be_leakage(run: Run) -> None:
    """The validation examples stand twice among the training's, beside as many answers that are mere noise."""
    letters = random.Random(1)

    def noise(number: int) -> dict[str, Any]:
        return row(number, answer="".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=8)))

    facts, _ = run([*ROWS * 2, *map(noise, range(500, 548))], ROWS, epochs=12)
    assert kinds(facts) == ["leakage"]
    assert "look for near-duplicates across the splits" in facts["diagnoses"][0]["text"]


def test_old_examples_that_get_worse_while_new_ones_get_better_are_forgetting(run: Run) -> None:
    """The new examples give each fruit another colour than the old ones, which only stand in validation."""
    new = [row(number, answer=COLOURS[(number + 1) % 4], new=True) for number in range(24)]
    old = [row(number, answer="amber apple plum", new=False) for number in range(2000, 2120)]
    facts, _ = run(new, [*new * 2, *old], epochs=30)
    (one,) = (one for one in facts["diagnoses"] if one["kind"] == "forgetting")
    assert "more replay ([dataset] replay)" in one["text"]


def test_out_of_memory_halves_what_goes_through_at_once_and_the_step_stays_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocation that fails is real: torch refuses more memory than there is."""
    whole, _ = run(ROWS, ROWS, "whole", epochs=2)
    real = objectives.losses_of

    def hungry(model: Any, base: Any, examples: Any) -> Any:
        if len(examples) > 3:
            torch.empty(1 << 50)
        return real(model, base, examples)

    monkeypatch.setattr(objectives, "losses_of", hungry)
    facts, events = run(ROWS, ROWS, "small", epochs=2)
    assert set(kinds(facts)) == {"out_of_memory"}
    told = [text for event in events for text in event["noticed"]]
    assert re.search(
        r"out of memory at step 1 with \d examples of up to \d+ tokens.*goes on with [23] at", told[-1]
    )
    assert facts["steps"] == whole["steps"]
    assert facts["validation_loss"] == pytest.approx(whole["validation_loss"], abs=0.02)


def test_a_look_that_finds_no_memory_halves_what_it_tried_and_says_how_much_that_was(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes less at once than a step may, so half of a step's room can be more than all that it tried."""
    real = objectives.losses_of
    tried: list[int] = []

    def hungry(model: Any, base: Any, examples: Any) -> Any:
        if not torch.is_grad_enabled() and len(examples) > 9:
            tried.append(len(examples))
            torch.empty(1 << 50)
        return real(model, base, examples)

    monkeypatch.setattr(objectives, "losses_of", hungry)
    facts, _ = run(ROWS, ROWS * 5, epochs=1)
    (one,) = facts["diagnoses"]
    assert len(tried) == 1 and f"with {tried[0]} examples of up to" in one["text"]


def test_memory_that_does_not_take_a_single_example_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starving(model: Any, base: Any, examples: Any) -> Any:
        return torch.empty(1 << 50)

    monkeypatch.setattr(objectives, "losses_of", starving)
    with pytest.raises(
        StarloopError, match=r"out of memory at step 1 with a single example of \d+ tokens; lower"
    ):
        run(ROWS, [], epochs=1)


def test_an_error_that_is_not_about_memory_is_not_taken_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, base: Any, examples: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(objectives, "losses_of", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(ROWS, [], epochs=1)


def checks(*losses: tuple[float | None, float]) -> list[Check]:
    return [
        Check(step=10 * place, epoch=1, train=train, validation=validation)
        for place, (train, validation) in enumerate(losses)
    ]


def test_a_base_that_knows_its_task_already_is_not_called_flat() -> None:
    assert diagnosis.flat(checks((None, 0.1), (0.1, 0.1)), 1e-4, 16, 0.5) is None
    assert diagnosis.flat(checks((None, 2.0), (2.0, 1.2)), 1e-4, 16, 0.5) is None


def test_a_loss_that_rose_is_neither_flat_nor_harmful_where_the_rise_is_nothing() -> None:
    worse = checks((None, 2.0), (2.1, 2.5))
    assert diagnosis.flat(worse, 1e-2, 16, 0.5) is None and diagnosis.harmful(worse, 10, 1e-2) is not None
    assert diagnosis.harmful(checks((None, 0.0005), (0.002, 0.002)), 10, 1e-2) is None


def test_a_validation_that_only_lags_less_is_no_leakage() -> None:
    """While the loss falls fast, the mean of the steps before a check is above the check."""
    falling = checks((None, 5.0), *((4.0 * 0.5**n, 3.0 * 0.5**n) for n in range(8)))
    assert diagnosis.leakage(falling) is None


def test_a_validation_loss_that_rises_with_the_training_loss_is_no_overfitting() -> None:
    both = checks((None, 3.0), (2.0, 2.0), (2.5, 2.5))
    assert diagnosis.overfitting(both, 10, 1, False) is None


def test_a_step_of_new_examples_alone_is_no_burst_where_the_base_loses_that_much_on_them() -> None:
    first = Check(step=0, epoch=0, train=None, validation=4.4, validation_new=13.6, validation_old=0.0005)
    before = diagnosis.untrained(0.4, [first])
    assert not diagnosis.burst(13.0, before) and diagnosis.burst(40.0, before)
    assert diagnosis.burst(4.0, diagnosis.untrained(0.4, []))
