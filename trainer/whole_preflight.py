"""What a training of all weights takes, by what one of an adapter would."""

from __future__ import annotations

from msgspec.structs import replace

from trainer.preflight import Preflight

_HELD = 20
"""Bytes a weight: float32 of itself, its gradient, Adam's two moments and the best so far."""
_SLOWER = 1.5
"""A backward pass that makes the weights' gradients too takes as long as two forward ones instead of one."""


def of_all_weights(wanted: Preflight, parameters: int) -> Preflight:
    """What a training of an adapter takes, turned to one of all weights."""
    memory = wanted.memory
    if memory is not None:
        more = _HELD * parameters - memory.weights - memory.adapter
        memory = replace(memory, weights=4 * parameters, adapter=(_HELD - 4) * parameters)
        checkpointed = None if wanted.checkpointed is None else wanted.checkpointed + more
        wanted = replace(wanted, memory=memory, checkpointed=checkpointed, quantised=None)
    cost = None if wanted.cost is None else wanted.cost * _SLOWER
    return replace(wanted, seconds=wanted.seconds * _SLOWER, cost=cost)
