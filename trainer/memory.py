"""How much memory a training takes, and what it does where there is no more: the same step in smaller pieces."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from feedback.errors import StarloopError
from trainer import diagnosis
from trainer.batches import fitting
from trainer.diagnosis import Diagnosis

if TYPE_CHECKING:
    from trainer.ranks import Ranks
    from trainer.training_state import TrainingState

_COPIES, _HEAD = 2, 1 << 20
"""Of the tensors while they are put into a file's form, and bytes besides (measured)."""
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

T = TypeVar("T")


def within_memory(
    state: TrainingState,
    told: list[Diagnosis],
    batch: Sequence[int],
    lengths: Sequence[int],
    work: Callable[[], T],
    ranks: Ranks,
    device: torch.device,
    most: int = sys.maxsize,
) -> T:
    """Do the work on a batch; where memory ends, do it again with half as much in each forward pass.

    The step stays the same: only into how many passes it is divided changes. `batch` is what this process puts through the
    model, at most `state.room` and `most` padded tokens at a time. All processes go on with what the one of them with the least
    memory has room for, and tell it; raises the same `StarloopError` in all of them where one has no room for a single
    example.
    """
    rows = longest = 0
    result: T | None = None
    while True:
        try:
            result = work()
            alone = 0
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # outside of the handler: the error holds the tensors that it found no room beside
        state.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = max(fitting(batch, lengths, min(state.room, most)), key=len)
        rows, longest = len(largest), max(lengths[index] for index in largest)
        if rows == 1:
            alone = longest
            break
        state.room = rows // 2 * longest
    found = ranks.each([state.room, rows, longest, alone], device)
    if lacking := int(max(one[3] for one in found)):
        raise StarloopError(
            f"out of memory at step {state.step + 1} with a single example of {lacking} tokens; lower [training] "
            "max_tokens or rank, take a smaller base, or give the training more memory"
        )
    room, rows, longest, _ = map(int, min(found))
    if rows:
        told.append(diagnosis.out_of_memory(state.step + 1, rows, longest))
    state.room = room
    return result  # type: ignore[return-value]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it was memory that was missing, on a GPU or beside it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # what torch says on a CPU, and NCCL of a GPU, as plain RuntimeErrors
    return "can't allocate memory" in str(error) or "out of memory" in str(error)


def packed(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors of main memory in the form of a safetensors file. Raises torch's `RuntimeError` where no memory is left for that.

    It is asked for and given back before: safetensors aborts the process where it finds none.
    """
    torch.empty(_COPIES * sum(tensor.nbytes for tensor in tensors.values()) + _HEAD, dtype=torch.uint8)
    return save(dict(tensors), metadata)


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
