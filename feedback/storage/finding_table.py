"""The table of what was found a month at a time, part of `tables`: which kinds of input of a model failed in it."""

from __future__ import annotations

from typing import Any

from sqlmodel import JSON, Field, SQLModel, Text


class MonthlyFinding(SQLModel, table=True):
    """The kinds of input that failed in one month of a model, as they were found after its end."""

    __tablename__ = "monthly_finding"

    model: str = Field(primary_key=True)
    month: str = Field(primary_key=True, max_length=7)
    """`YYYY-MM`, in UTC."""
    id: str = Field(max_length=36)
    """Follows from model and month: made again after an erasure it is the same, and nobody is told twice."""
    created: float
    told: str = Field(sa_type=Text)
    """In sentences, as notices have it."""
    found: dict[str, Any] = Field(sa_type=JSON)
    """`FailingKinds`, its examples by id alone: their texts stay with their inferences."""
