"""The table of a judge's verdicts, part of `tables`: the same question is paid for once. Holds no text of anybody's."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class Judgement(SQLModel, table=True):
    """A judge's word on two answers in one order."""

    __tablename__ = "judgement"

    question_hash: str = Field(primary_key=True, max_length=64)
    """SHA-256 of judge, rubric, messages and both answers in their order."""
    verdict: str
    """`first`, `second` or `neither`."""
    tokens: int
    cost: float
    created: float = Field(index=True)
