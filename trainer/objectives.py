"""What a step minimises: the loss of examples under a model, in parts that fit into memory. Here supervised fine-tuning.

An objective gives each part's share of the step's loss, so that the shares' gradients add up to the step's however it is
divided. Preferences are in `trainer.preferences`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.base_model import BaseModel
from trainer.batches import fitting
from trainer.examples import IGNORED, Encoded, lengths_of
from trainer.ranks import ALONE, Ranks


class Objective(Protocol):
    """Examples and the loss that they are trained with."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens that each example brings into a forward pass."""

    def shares(self, model: Any, batch: Sequence[int], room: int, ranks: Ranks = ALONE) -> Iterator[Tensor]:
        """This process's part of the loss of a step, in parts of at most `room` padded tokens."""

    def ids(self, batch: Sequence[int]) -> list[str]:
        """Names of the examples."""

    def passed(self, batch: Sequence[int], ranks: Ranks) -> Sequence[int]:
        """The examples of a step that this process puts through the model."""

    def exchange(self, batch: Sequence[int], ranks: Ranks) -> None:
        """Once a step's shares are made: whatever later steps need of them becomes the same in all processes."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep of it."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take that back."""


class Supervised:
    """Cross entropy of the answers' tokens, each example's times its weight; a mean over the step's tokens."""

    def __init__(self, base: BaseModel, examples: Sequence[Encoded]) -> None:
        self._base = base
        self._examples = examples
        self.lengths = lengths_of(examples)

    def shares(self, model: Any, batch: Sequence[int], room: int, ranks: Ranks = ALONE) -> Iterator[Tensor]:
        """See `Objective`."""
        chosen = {index: self._examples[index] for index in batch}
        total = sum(example.weight * example.trained for example in chosen.values())
        for part in fitting(ranks.mine(batch), self.lengths, room):
            losses, _ = losses_of(model, self._base, [chosen[index] for index in part])
            yield losses.sum() / total

    def ids(self, batch: Sequence[int]) -> list[str]:
        """See `Objective`."""
        return [self._examples[index].id for index in batch]

    def passed(self, batch: Sequence[int], ranks: Ranks) -> Sequence[int]:
        """Its own part."""
        return ranks.mine(batch)

    def exchange(self, batch: Sequence[int], ranks: Ranks) -> None:
        """Nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: the loss of a step does not depend on steps before it."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""


def losses_of(
    model: Any, base: BaseModel, examples: Sequence[Encoded], keep_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Each example's weighted loss summed over its answer, in nats, and the same unweighted; both `[examples]`.

    The second carries a gradient only with `keep_graph`.

    Rows are padded on the right: under causal attention no real token sees the padding, so no mask is needed and
    attention takes its fastest path. Logits are made only where some row has a label.
    """
    longest = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    after = labels[:, 1:]
    keep = (after != IGNORED).any(0).nonzero().squeeze(1)
    targets = after[:, keep].to(base.device)
    weights = torch.tensor([example.weight for example in examples], device=base.device)
    with torch.autocast(base.device.type, dtype=base.dtype, enabled=base.device.type == "cuda"):
        logits = _logits(model, base, tokens.to(base.device), keep.to(base.device))
    each = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    summed = each.view(targets.shape).sum(1)
    return summed * weights, summed if keep_graph else summed.detach()


def _logits(model: Any, base: BaseModel, tokens: Tensor, keep: Tensor) -> Tensor:
    """Logits at the places `keep`."""
    if base.some_logits:
        kept: Tensor = model(input_ids=tokens, logits_to_keep=keep, use_cache=False).logits
        return kept
    every: Tensor = model(input_ids=tokens, use_cache=False).logits
    return every[:, keep]


@torch.no_grad()
def losses_each(
    model: nn.Module, base: BaseModel, examples: Sequence[Encoded], room: int, ranks: Ranks = ALONE
) -> list[float]:
    """Each example's loss, summed over its answer; 0 for those that another process looks at."""
    model.eval()
    each = [0.0] * len(examples)
    lengths = [len(example.tokens) for example in examples]
    for part in fitting(ranks.mine(range(len(examples))), lengths, room):
        losses = losses_of(model, base, [examples[index] for index in part])[1].tolist()
        for index, loss in zip(part, losses, strict=True):
            each[index] = loss
    return each


def means_of(examples: Sequence[Encoded], each: Sequence[float]) -> dict[str, float | None]:
    """Mean loss per answer token over all, and over new and old examples apart, so that forgetting shows."""
    sums = {True: 0.0, False: 0.0}
    counts = {True: 0, False: 0}
    for example, loss in zip(examples, each, strict=True):
        sums[example.new] += loss
        counts[example.new] += example.trained

    def mean(*slices: bool) -> float | None:
        count = sum(counts[one] for one in slices)
        return round(sum(sums[one] for one in slices) / count, 5) if count else None

    return {"validation": mean(True, False), "validation_new": mean(True), "validation_old": mean(False)}
