"""Several processes that train one adapter together, each on a device of its own (data parallel, `torch.distributed`).

Each takes its part of a step's examples and counts it as a share of the whole step; the shares' gradients are added up, and
every process makes the same step with the sum. So the step is that of one process, but for the order in which floats are
added. Whatever decides how a training goes on is the same number in all of them. The first alone speaks and writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed

from trainer.memory import is_out_of_memory
from trainer.process import MEETING, OutOfStepError, PeerLostError


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which process this is, from 0, and of how many."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.number == 0

    def mine(self, batch: Sequence[int]) -> list[int]:
        """This process's part of a batch. Batches are ordered by length, so the parts are about as long as each other."""
        return list(batch[self.number :: self.count])

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their sums over all processes. Raises `PeerLostError` where another has ended."""
        if self.count == 1:
            return
        together = torch.cat([tensor.flatten() for tensor in tensors])
        self._reduce(together)
        sums = together.split([tensor.numel() for tensor in tensors])
        for tensor, added in zip(tensors, sums, strict=True):
            tensor.copy_(added.view_as(tensor))

    def each(self, numbers: Sequence[float], device: torch.device) -> list[list[float]]:
        """Every process's numbers, in the order of the processes. Raises what `add_up` raises."""
        if self.count == 1:
            return [list(numbers)]
        table = torch.zeros(self.count, len(numbers), dtype=torch.float64, device=device)
        table[self.number] = torch.tensor(numbers, dtype=torch.float64)
        self._reduce(table)
        return table.tolist()

    def sums(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Sums of each number over all processes. Raises what `add_up` raises."""
        return [sum(column) for column in zip(*self.each(numbers, device), strict=True)]

    def require_in_step(self, step: int, mark: Sequence[int], device: torch.device) -> None:
        """Raise `OutOfStepError` unless all processes go on from the same step and the same content, of which `mark` is a
        hash in numbers below 2^53."""
        places = self.each([step, *mark], device)
        if any(place != places[0] for place in places):
            steps = ", ".join(f"{place[0]:.0f}" for place in places)
            raise OutOfStepError(
                "the processes of the training do not read the same checkpoint (they would go on from the steps "
                f"{steps}), so nothing was trained; see whether the disk of the training's folder is sound, or remove "
                "`checkpoints` there to train from the beginning"
            )

    def part(self) -> None:
        """Nothing more is done together."""
        if self.count > 1:
            distributed.destroy_process_group()

    def _reduce(self, tensor: Tensor) -> None:
        try:
            distributed.all_reduce(tensor)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise PeerLostError(f"another process of the training is gone ({error})") from error


ALONE = Ranks()


def join(folder: Path) -> Ranks:
    """Meet the other processes that `trainer.process` started, in the training's folder; alone where there are none."""
    number, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    meeting = f"file://{(folder / MEETING).resolve()}"
    try:
        distributed.init_process_group(backend, init_method=meeting, rank=number, world_size=count)
    except RuntimeError as error:
        raise PeerLostError(f"the processes of the training did not find each other ({error})") from error
    return Ranks(number, count)
