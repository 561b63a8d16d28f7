"""All that a training knows between two steps, so that it can go on after a kill as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from safetensors.torch import load
from torch import Tensor, nn

from trainer.diagnosis import OF_CHECKS, Check, Diagnosis
from trainer.memory import packed
from trainer.stopping import LEAST_TO_CHOOSE, Watch, worse_beyond_chance


class TrainingState:
    """Weights, optimiser, position and what was seen so far. The order of the data follows from `step` alone."""

    def __init__(self, model: nn.Module, rate: float, patience: int, room: int) -> None:
        self.weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.best = {name: value.detach().clone() for name, value in self.weights.items()}
        self.rate = rate
        """Peak of the learning rate, as it was lowered."""
        self.room = room
        """Padded tokens in one forward pass, as it was halved."""
        self.optimizer = self._new_optimizer()
        self.step = 0
        self.first_loss: float | None = None
        self.tokens = 0
        self.seconds = 0.0
        self.lowered = False
        self.recent: list[float] = []
        self.checks: list[Check] = []
        self.watch = Watch(patience)
        self.old = Watch(patience)
        """Follows the old examples alone, for forgetting."""
        self._old_kept = self.old.state()
        self.untrained: list[float] = []
        """Losses of the validation examples before the first step."""
        self.diagnoses: list[Diagnosis] = []
        self.told: list[tuple[float, dict[str, Any]]] = []
        """The last seconds' lines to the parent with their times: one that is killed has not recorded them yet."""
        self.resumed: list[int] = []
        """Steps at which the training went on after an interruption."""

    def keep(self) -> None:
        """Take the present weights for the best, and what was seen so far for what led there."""
        for name, value in self.weights.items():
            self.best[name].copy_(value.detach())
        self._old_kept = self.old.state()

    def worse_than_untrained(self, losses: Sequence[float]) -> bool:
        """Whether the first check's losses are worse, beyond chance, than those of the model as it came."""
        first = not self.lowered and not self.watch.kept_step
        return first and len(losses) >= LEAST_TO_CHOOSE and worse_beyond_chance(losses, self.untrained)

    def go_back(self, rate: float) -> None:
        """Return to the best weights and the step that they are of, with a new optimiser at a lower rate.

        What later checks showed is forgotten: other steps take the place of those that led there.
        """
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(self.best[name])
        self.step, self.watch.worse = self.watch.kept_step, 0
        self.old.restore(self._old_kept)
        self.checks = [check for check in self.checks if check.step <= self.step]
        self.diagnoses = [one for one in self.diagnoses if one.step <= self.step or one.kind not in OF_CHECKS]
        self.recent.clear()
        self.rate, self.lowered = rate, True
        self.optimizer = self._new_optimizer()

    def pack(self, extra: Mapping[str, Tensor]) -> tuple[bytes, dict[str, Any]]:
        """Tensors and the rest, for a checkpoint; `extra` are the method's own tensors."""
        tensors = {f"extra.{name}": value for name, value in extra.items()}
        tensors["random.torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        for name, value in self.weights.items():
            tensors[f"weight.{name}"] = value.detach()
            tensors[f"best.{name}"] = self.best[name]
            for key, moment in self.optimizer.state.get(value, {}).items():
                tensors[f"optimizer.{key}.{name}"] = moment
        plain = {
            "step": self.step,
            "rate": self.rate,
            "room": self.room,
            "first_loss": self.first_loss,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "lowered": self.lowered,
            "recent": self.recent,
            "checks": msgspec.to_builtins(self.checks),
            "watch": self.watch.state(),
            "old": self.old.state(),
            "old_kept": self._old_kept,
            "untrained": self.untrained,
            "diagnoses": msgspec.to_builtins(self.diagnoses),
            "told": self.told,
            "resumed": self.resumed,
        }
        return packed({name: value.cpu().contiguous() for name, value in tensors.items()}), plain

    def unpack(self, packed: bytes, plain: Mapping[str, Any]) -> dict[str, Tensor]:
        """Take a checkpoint over; gives the method's own tensors back."""
        tensors = load(packed)
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(tensors[f"weight.{name}"])
                self.best[name].copy_(tensors[f"best.{name}"])
        self.optimizer = self._new_optimizer()
        for name, value in self.weights.items():
            moments = {
                key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")
            }
            if moments["step"] is not None:
                self.optimizer.state[value] = {
                    key: moment.to(value.device) for key, moment in moments.items() if moment is not None
                }
        torch.set_rng_state(tensors["random.torch"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.step, self.rate, self.room = plain["step"], plain["rate"], plain["room"]
        self.first_loss, self.lowered = plain["first_loss"], plain["lowered"]
        self.tokens, self.seconds, self.recent = plain["tokens"], plain["seconds"], plain["recent"]
        self.checks = msgspec.convert(plain["checks"], list[Check])
        self.watch.restore(plain["watch"])
        self.old.restore(plain["old"])
        self._old_kept = plain["old_kept"]
        self.untrained = plain["untrained"]
        self.diagnoses = msgspec.convert(plain["diagnoses"], list[Diagnosis])
        self.told = [(when, event) for when, event in plain["told"]]
        self.resumed = [*plain["resumed"], self.step]
        return {
            name.removeprefix("extra."): value for name, value in tensors.items() if name.startswith("extra.")
        }

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.weights.values(), lr=self.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
