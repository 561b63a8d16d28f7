"""A training as text: its epochs with their losses, and what was noticed."""

from __future__ import annotations

from collections.abc import Sequence

from feedback.registry.training_steps import Epoch, epochs_of
from feedback.storage.tables import TrainingStep

_HEADS = ("epoch", "steps", "train", "validation", "new", "old")


def epochs_table(epochs: Sequence[Epoch]) -> list[str]:
    """One line an epoch; losses are means per answer token. Epoch 0 is the base as it came."""
    rows = [_HEADS]
    for one in epochs:
        losses = (one.train, one.validation, one.validation_new, one.validation_old)
        rows.append((str(one.epoch), str(one.steps or "-"), *map(_loss, losses)))  # type: ignore[arg-type]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def training_text(steps: Sequence[TrainingStep]) -> list[str]:
    """The epochs table, the newest step's figures, and every sentence about what was noticed."""
    if not steps:
        return []
    last = steps[-1]
    figures = [f"step {last.step} of {last.steps}"]
    if last.learning_rate is not None:
        figures.append(f"learning rate {last.learning_rate:.2e}")
    if last.gradient_norm is not None:
        figures.append(f"gradient norm {last.gradient_norm:.3f}")
    if last.tokens_per_second is not None:
        figures.append(f"{last.tokens_per_second:,.0f} tokens/s")
    if last.memory_bytes is not None:
        figures.append(f"{last.memory_bytes / 2**20:,.0f} MiB")
    noticed = [f"  step {step.step}: {text}" for step in steps for text in step.noticed]
    return [*epochs_table(epochs_of(steps)), ", ".join(figures), *(["noticed:", *noticed] if noticed else [])]


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"
