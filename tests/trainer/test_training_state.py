"""What a training knows goes back with its weights, and comes back from a checkpoint."""

from __future__ import annotations

import json

import torch
from torch import nn

from trainer.diagnosis import Check, Diagnosis
from trainer.training_state import TrainingState


def state() -> TrainingState:
    torch.manual_seed(0)
    return TrainingState(nn.Linear(2, 2), 0.1, 3, 64)


def look(one: TrainingState, step: int, loss: float) -> None:
    """A check as the training makes it, of old examples alone."""
    one.step = step
    losses = [loss + place * 1e-4 for place in range(200)]
    one.checks.append(Check(step=step, epoch=1, train=loss, validation=loss, validation_old=loss))
    one.old.see(step, loss, losses)
    if not step or one.watch.see(step, loss, losses):
        one.keep()


def gone_astray() -> TrainingState:
    """Kept at step 10; at 20 and 30 the old examples are worse."""
    one = state()
    for step, loss in ((0, 3.0), (10, 2.0), (20, 2.5), (30, 2.6)):
        look(one, step, loss)
    one.diagnoses = [
        Diagnosis(kind="out_of_memory", step=15, text="small"),
        Diagnosis(kind="leakage", step=10, text="leaks"),
        Diagnosis(kind="forgetting", step=30, text="forgets"),
    ]
    assert one.old.worse == 2
    return one


def test_what_is_known_of_old_examples_goes_back_with_the_weights() -> None:
    straight = state()
    for step, loss in ((0, 3.0), (10, 2.0)):
        look(straight, step, loss)
    one = gone_astray()
    one.go_back(0.025)
    assert (one.step, one.rate) == (10, 0.025)
    assert one.old.state() == straight.old.state() and one.old.kept_step == 10
    assert one.checks == straight.checks
    look(one, 20, 2.5)
    assert one.old.worse == 1, "a check that was undone does not count"


def test_before_any_check_was_kept_it_goes_back_to_the_look_at_the_untrained_model() -> None:
    one = state()
    look(one, 0, 3.0)
    one.step = 4
    one.go_back(0.025)
    assert one.step == 0 and one.old.kept_loss == 3.0


def test_the_untrained_models_losses_judge_the_first_check_alone_also_after_a_kill() -> None:
    one = state()
    look(one, 0, 3.0)
    one.untrained = [3.0 + place * 1e-4 for place in range(200)]
    again = state()
    again.unpack(*one.pack({}))
    worse = [3.5 + place * 1.1e-4 for place in range(200)]
    assert again.worse_than_untrained(worse) and not again.worse_than_untrained(one.untrained)
    assert not again.worse_than_untrained(worse[:99]), "too few to tell"
    look(again, 10, 2.0)
    assert not again.worse_than_untrained(worse)


def test_what_was_read_off_checks_that_are_undone_is_said_no_more() -> None:
    one = gone_astray()
    one.go_back(0.025)
    assert [said.kind for said in one.diagnoses] == ["out_of_memory", "leakage"]


def test_one_that_was_killed_before_it_goes_back_goes_back_to_the_same() -> None:
    one = gone_astray()
    tensors, plain = one.pack({})
    again = state()
    again.unpack(tensors, json.loads(json.dumps(plain)))
    one.go_back(0.025)
    again.go_back(0.025)
    assert again.old.state() == one.old.state()
    assert again.pack({})[1] | {"resumed": []} == json.loads(json.dumps(one.pack({})[1]))
