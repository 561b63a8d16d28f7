"""How much memory a training takes, and what it does where there is no more: the same step in smaller pieces."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from feedback.errors import StarloopError
from trainer import diagnosis
from trainer.batches import fitting
from trainer.diagnosis import Diagnosis
from trainer.training_state import TrainingState

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

T = TypeVar("T")


def within_memory(
    state: TrainingState,
    told: list[Diagnosis],
    batch: Sequence[int],
    lengths: Sequence[int],
    work: Callable[[], T],
) -> T:
    """Do the work on a batch; where memory ends, do it again with half as much in each forward pass.

    The step stays the same: only into how many passes it is divided changes.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # outside of the handler: the error holds the tensors that it found no room beside
        state.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = max(fitting(batch, lengths, state.room), key=len)
        longest = max(lengths[index] for index in largest)
        if len(largest) == 1:
            raise StarloopError(
                f"out of memory at step {state.step + 1} with a single example of {longest} tokens; lower [training] "
                "max_tokens or rank, take a smaller base, or give the training more memory"
            )
        told.append(diagnosis.out_of_memory(state.step + 1, len(largest), longest))
        state.room = max(1, len(largest) // 2) * longest


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error)  # what torch says on a CPU, as a plain RuntimeError


def memory_now(device: torch.device) -> int:
    """Bytes that the training takes now: on its GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not on Linux: the most that it ever took
        return largest_memory()


def largest_memory() -> int:
    """Most bytes that this process ever took.

    Not what `getrusage` says where there is better: to that a child has taken at least what its parent had when it was started.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # not on Linux
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
