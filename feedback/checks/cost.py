"""What training on a file takes: tokens under the base's own tokenizer, and from them time and money.

Time is 6 × parameters × tokens × epochs floating-point operations (Kaplan et al. 2020, section 2.1; forward 2, backward 4,
of which LoRA saves some), over what the machine does a second. It is an estimate to plan by, good to a factor of two or so.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from statistics import quantiles

from msgspec import Struct

from feedback import starter
from feedback.registry.bases import STARTER
from feedback.settings import Model, Training

_BATCH = 500
_CPU_TERAFLOPS = 0.03
"""For each core: what training the starter came to on two shared cores."""
_HEADER_LIMIT = 100 << 20
_KEPT = 500_000


class Tokens(Struct):
    """Token counts of whole rows, without what the chat template adds (some 5 to 10 for each message)."""

    total: int
    median: int
    p95: int
    longest: int
    over_limit: int
    """Rows longer than `[training] max_tokens`: left out of training, never cut."""


class Estimate(Struct):
    """Planned time and cost of one training on these rows, with what they rest on."""

    parameters: int
    tokens: int
    epochs: int
    teraflops: float
    hours: float
    cost: float | None
    rests_on: str


class TokenCount:
    """Counts rows' tokens in batches. Raises what `tokenizers` raises for a file that it cannot read."""

    def __init__(self, file: Path, limit: int) -> None:
        from tokenizers import Tokenizer  # no torch behind it

        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()  # a file may ask for either, and then the counts would be others
        self._tokenizer.no_truncation()
        self._limit, self._waiting = limit, list[str]()
        self._lengths: list[int] = []
        self._total = self._longest = self._over = 0

    def add(self, text: str) -> None:
        """Count one row."""
        self._waiting.append(text)
        if len(self._waiting) >= _BATCH:
            self._flush()

    def result(self) -> Tokens | None:
        """The counts; None without any row."""
        self._flush()
        if not self._lengths:
            return None
        hundredths = (
            quantiles(self._lengths, n=100, method="inclusive")
            if len(self._lengths) > 1
            else self._lengths * 99
        )
        return Tokens(self._total, round(hundredths[49]), round(hundredths[94]), self._longest, self._over)

    def _flush(self) -> None:
        lengths = [
            len(one.ids) for one in self._tokenizer.encode_batch(self._waiting, add_special_tokens=False)
        ]
        self._waiting.clear()
        self._total += sum(lengths)
        self._longest = max([self._longest, *lengths])
        self._over += sum(length > self._limit for length in lengths)
        self._lengths += lengths[: max(0, _KEPT - len(self._lengths))]


def base_directory(model: Model) -> Path | None:
    """Where the model's base lies on this disk; None where it is a hub id."""
    path = starter.model_directory() if model.base == STARTER else Path(model.base).expanduser()
    return path if path.is_dir() else None


def parameters_of(directory: Path) -> int:
    """Parameters of the weights in a directory; 0 where there are none."""
    return sum(map(math.prod, tensor_shapes(directory)))


def tensor_shapes(directory: Path) -> list[list[int]]:
    """Shapes of all weights in a directory, read from the heads of its safetensors files; none where one cannot be read."""
    found: list[list[int]] = []
    for file in weight_files(directory):
        try:
            with file.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                head = json.loads(opened.read(min(length, _HEADER_LIMIT)))
            found += [list(map(int, head[name]["shape"])) for name in head if name != "__metadata__"]
        except (OSError, ValueError, struct.error, KeyError, TypeError):
            return []
    return found


def weight_files(directory: Path) -> list[Path]:
    """The files that a base is loaded from, as transformers chooses them: some bases hold the same weights in another form beside
    them (Mistral's `consolidated.safetensors`)."""
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [directory / name for name in sorted(set(named))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return sorted(directory.glob("*.safetensors"))


def estimate(tokens: int, parameters: int, settings: Training) -> Estimate:
    """Time and cost of one training. `cost` is None while `[training] price_per_hour` is 0."""
    epochs = settings.epochs or chosen_epochs(parameters)
    machine = settings.teraflops or _CPU_TERAFLOPS * (settings.threads or max(1, (os.cpu_count() or 2) - 1))
    hours = 6 * parameters * tokens * epochs / (machine * 1e12) / 3600
    cost = round(hours * settings.price_per_hour, 2) if settings.price_per_hour else None
    given = (
        "[training] teraflops"
        if settings.teraflops
        else f"{machine:g} teraflop/s assumed for this CPU; set [training] teraflops for your device"
    )
    rests_on = f"6 × parameters × tokens × epochs / ({given}), all epochs, without replay and evaluation"
    return Estimate(parameters, tokens, epochs, machine, hours, cost, rests_on)


def chosen_epochs(parameters: int) -> int:
    """Passes over the data where none are set, before early stopping: a small base needs more of them."""
    return 8 if parameters < 5e7 else 5 if parameters < 5e8 else 3
