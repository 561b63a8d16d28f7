"""A child module for the tests of several processes: `trainer.finetune`, of which the second process is unlike the first."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from trainer import finetune, objectives


def main(spec: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The spec says besides how many examples `fit` into the second one's memory at a time, and whether it is `blind` to
    checkpoints."""
    fit, blind = spec.pop("fit", None), spec.pop("blind", False)
    if os.environ["RANK"] == "1":
        if fit is not None:
            _short_of_memory(fit)
        if blind:
            finetune.read_checkpoint = lambda out, digest: None
    return finetune.main(spec, emit)


def _short_of_memory(fit: int) -> None:
    """The allocation that fails is real: torch refuses more memory than there is."""
    real = objectives.losses_of

    def losses_of(model: Any, base: Any, examples: Any, keep_graph: bool = False) -> Any:
        if len(examples) > fit:
            torch.empty(1 << 50)
        return real(model, base, examples, keep_graph)

    objectives.losses_of = losses_of
