"""Training on what people preferred: DPO on pairs of answers, KTO on single answers that were good or bad.

Both compare the model with the base it came from, which is the same model with its adapter switched off: no second one
is held in memory. What the base says of an example is computed when it is first met and kept from then on, and where several
processes train, each tells the others: in an epoch to come the example may be theirs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer.base_model import BaseModel
from trainer.batches import fitting
from trainer.examples import IGNORED, Encoded, lengths_of
from trainer.objectives import losses_of
from trainer.preference_rows import Answers, StoredPairs
from trainer.ranks import ALONE, Ranks
from trainer.training import BETA

SFT_WEIGHT = 0.2
"""Of the cross entropy on chosen and replayed answers beside DPO's own term, which has 1."""


class Direct:
    """DPO with a supervised term: `-log σ(β Δ)` over the pairs, and cross entropy on chosen answers and on `rows`.

    Δ is how much more the model than the base prefers the chosen answer. The rows are examples without a failed answer
    beside them, replay above all: preferences alone would say nothing about what must not be unlearned.
    """

    def __init__(
        self, base: BaseModel, pairs: Sequence[Answers], rows: Sequence[Encoded], beta: float = BETA
    ) -> None:
        """`beta` is how strongly the base holds the model."""
        self._base = base
        self._beta = beta
        self._pairs = pairs
        self._rows = rows
        self._reference = torch.full((len(pairs), 2), torch.nan)
        self.lengths = array("I", pairs.lengths if isinstance(pairs, StoredPairs) else map(_both, pairs))
        self.lengths.extend(lengths_of(rows))

    def shares(self, model: Any, batch: Sequence[int], room: int, ranks: Ranks = ALONE) -> Iterator[Tensor]:
        """See `objectives.Objective`."""
        pairs = {index: self._pairs[index] for index in batch if index < len(self._pairs)}
        preferring = sum(pair.chosen.weight for pair in pairs.values())
        rows = {index: self._rows[index - len(self._pairs)] for index in batch if index not in pairs}
        answers = {index: pair.chosen for index, pair in pairs.items()} | rows
        tokens = sum(answer.weight * answer.trained for answer in answers.values())
        for part in fitting(ranks.mine(batch), self.lengths, room):
            here = [index for index in part if index in pairs]
            self._look_up(model, {index: pairs[index] for index in here})
            imitated = [answers[index] for index in part]
            weighted, plain = losses_of(
                model, self._base, [*imitated, *(pairs[index].rejected for index in here)], keep_graph=True
            )
            share = SFT_WEIGHT * weighted[: len(part)].sum() / tokens
            if here:
                places = [place for place, index in enumerate(part) if index in pairs]
                chosen, rejected = -plain[places], -plain[len(part) :]
                reference = self._reference[here].to(chosen.device)
                delta = (chosen - reference[:, 0]) - (rejected - reference[:, 1])
                weights = torch.tensor([pairs[index].chosen.weight for index in here], device=delta.device)
                share = share - (weights * nn.functional.logsigmoid(self._beta * delta)).sum() / preferring
            yield share

    def ids(self, batch: Sequence[int]) -> list[str]:
        """See `objectives.Objective`."""
        return [self._imitated(index).id for index in batch]

    def passed(self, batch: Sequence[int], ranks: Ranks) -> Sequence[int]:
        """See `objectives.Objective`."""
        return ranks.mine(batch)

    def exchange(self, batch: Sequence[int], ranks: Ranks) -> None:
        """What the base says of the batch's pairs."""
        preferring = [index for index in batch if index < len(self._pairs)]
        _exchange(self._reference, preferring, ranks.mine(batch), ranks, self._base.device)

    def tensors(self) -> dict[str, Tensor]:
        """What the base says: computed again beside other examples it would differ in the last digits."""
        return {"reference": self._reference}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See `objectives.Objective`."""
        self._reference = tensors["reference"]

    def _imitated(self, index: int) -> Encoded:
        pairs = len(self._pairs)
        return self._pairs[index].chosen if index < pairs else self._rows[index - pairs]

    def _look_up(self, model: Any, pairs: Mapping[int, Answers]) -> None:
        unknown = [index for index in pairs if self._reference[index].isnan().any()]
        if unknown:
            both = [pairs[index].chosen for index in unknown] + [pairs[index].rejected for index in unknown]
            self._reference[unknown] = _of_the_base(model, self._base, both).view(2, -1).T


class Unpaired:
    """KTO: a good answer gains by `1 - σ(β (r - z))`, a bad one by `1 - σ(β (z - r))`.

    r is how much more likely the model makes the answer than the base does, in nats, z the mean of that over answers to
    other prompts of the step, not below 0. The rarer kind weighs as much in all as the more frequent one.
    """

    def __init__(self, base: BaseModel, examples: Sequence[Encoded], good: Sequence[int], limit: int) -> None:
        """`limit` is the context: an answer that does not fit behind another prompt is left out of z."""
        self._base = base
        self._examples = examples
        self._good = torch.tensor(good, dtype=torch.bool)
        self._limit = limit
        self._reference = torch.full((len(examples),), torch.nan)
        more = max(int(self._good.sum()), len(good) - int(self._good.sum()))
        self._factors = {
            True: more / int(self._good.sum()),
            False: more / (len(good) - int(self._good.sum())),
        }
        self.lengths = lengths_of(examples)

    def shares(self, model: Any, batch: Sequence[int], room: int, ranks: Ranks = ALONE) -> Iterator[Tensor]:
        """See `objectives.Objective`."""
        rows = {index: self._examples[index] for index in batch}
        drift = self._drift(model, [rows[index] for index in batch], room)
        for part in fitting(ranks.mine(batch), self.lengths, room):
            unknown = [index for index in part if self._reference[index].isnan()]
            if unknown:
                examples = [rows[index] for index in unknown]
                self._reference[unknown] = _of_the_base(model, self._base, examples)
            examples = [rows[index] for index in part]
            _, plain = losses_of(model, self._base, examples, keep_graph=True)
            gain = -plain - self._reference[part].to(plain.device)
            good = self._good[part].to(plain.device)
            loss = 1 - torch.sigmoid(BETA * torch.where(good, gain - drift, drift - gain))
            weights = torch.tensor(
                [
                    example.weight * self._factors[bool(kind)]
                    for example, kind in zip(examples, good, strict=True)
                ],
                device=plain.device,
            )
            yield (weights * loss).sum() / len(batch)

    def ids(self, batch: Sequence[int]) -> list[str]:
        """See `objectives.Objective`."""
        return [self._examples[index].id for index in batch]

    def passed(self, batch: Sequence[int], ranks: Ranks) -> Sequence[int]:
        """All of them, for z."""
        return batch

    def exchange(self, batch: Sequence[int], ranks: Ranks) -> None:
        """What the base says of the batch's answers."""
        _exchange(self._reference, batch, ranks.mine(batch), ranks, self._base.device)

    def tensors(self) -> dict[str, Tensor]:
        """See `Direct`."""
        return {"reference": self._reference}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See `objectives.Objective`."""
        self._reference = tensors["reference"]

    @torch.no_grad()
    def _drift(self, model: Any, batch: Sequence[Encoded], room: int) -> float:
        """z: each prompt of the step with the answer to the one before it. Every process finds all of it: one that runs out of
        memory begins again, and would otherwise ask the others twice."""
        before = [batch[-1], *batch[:-1]]
        mixed = [crossed(here, there) for here, there in zip(batch, before, strict=True) if here is not there]
        mixed = [example for example in mixed if len(example.tokens) <= self._limit]
        gains: list[float] = []
        for part in fitting(range(len(mixed)), [len(example.tokens) for example in mixed], room):
            examples = [mixed[index] for index in part]
            plain = losses_of(model, self._base, examples)[1]
            gains += (-plain.cpu() - _of_the_base(model, self._base, examples)).tolist()
        return max(0.0, sum(gains) / len(gains)) if gains else 0.0


def _both(pair: Answers) -> int:
    return len(pair.chosen.tokens) + len(pair.rejected.tokens)


def _exchange(
    reference: Tensor, known: Sequence[int], mine: Sequence[int], ranks: Ranks, device: torch.device
) -> None:
    """Take into every process's table what one of them knows: of the examples in `known`, those that are its own."""
    if ranks.count == 1 or not known:
        return
    told = reference[list(known)]
    told[torch.tensor([index not in mine for index in known])] = 0.0
    sums = ranks.sums(told.flatten().tolist(), device)
    reference[list(known)] = torch.tensor(sums).view_as(told)


def crossed(asked: Encoded, answered: Encoded) -> Encoded:
    """One example's prompt with another's answer."""
    prompt = next(place for place, label in enumerate(asked.labels) if label != IGNORED)
    answer = next(place for place, label in enumerate(answered.labels) if label != IGNORED)
    return replace(
        asked,
        tokens=asked.tokens[:prompt] + answered.tokens[answer:],
        labels=[IGNORED] * prompt + answered.labels[answer:],
    )


@torch.no_grad()
def _of_the_base(model: Any, base: BaseModel, examples: Sequence[Encoded]) -> Tensor:
    """Log likelihood of each example's answer under the base, in nats, on the CPU."""
    with model.disable_adapter():
        return -losses_of(model, base, examples)[1].float().cpu()
