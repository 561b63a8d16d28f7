"""The table of trainings as they went; `storage.tables` has the others and names this one too."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field, SQLModel


class TrainingStep(SQLModel, table=True):
    """One step of a training as it went. Losses are means per answer token in nats; step 0 is the base as it came."""

    __tablename__ = "training_step"

    run: str = Field(primary_key=True, max_length=36)
    """The cycle's id, or the name of a training by hand."""
    step: int = Field(primary_key=True)
    created: float
    steps: int
    epoch: int
    epochs: int
    loss: float | None = None
    validation_loss: float | None = None
    validation_new: float | None = None
    validation_old: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = Field(default=None, sa_type=BigInteger)
    noticed: list[str] = Field(default_factory=list, sa_type=JSON)
    """What was noticed at this step, in sentences."""
