"""A step's gradient: made in parts that fit into memory, added up over all processes, and clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainer.objectives import Objective
from trainer.ranks import ALONE, Ranks
from trainer.training_state import TrainingState

CLIP = 1.0
"""Largest norm of a step's gradient."""


def backward(
    model: Any, state: TrainingState, objective: Objective, batch: Sequence[int], ranks: Ranks = ALONE
) -> float:
    """This process's part of the step's loss, and its gradient in the weights."""
    state.optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for share in objective.shares(model, batch, state.room, ranks):
        share.backward()
        loss += share.item()
    return loss


def add_up(state: TrainingState, loss: float, ranks: Ranks, device: torch.device) -> tuple[float, float]:
    """The step's whole loss, and its gradient's norm; the gradient stands in the weights, clipped.

    Apart from the passes: one that finds no memory is made again, and what is done together must be done once.
    """
    if ranks.count > 1:
        for weight in state.weights.values():
            if weight.grad is None:  # the step's last batch may be smaller than there are processes
                weight.grad = torch.zeros_like(weight)
        ranks.add_up([weight.grad for weight in state.weights.values() if weight.grad is not None])
        (loss,) = ranks.sums([loss], device)
    return loss, nn.utils.clip_grad_norm_(state.weights.values(), CLIP).item()
