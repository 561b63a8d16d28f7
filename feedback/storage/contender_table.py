"""The table of what contenders answered, the same question is paid for once."""

from __future__ import annotations

from sqlalchemy import Text
from sqlmodel import Field, SQLModel


class ContenderAnswer(SQLModel, table=True):
    """A contender's greedy answer to one case, and what it took."""

    __tablename__ = "contender_answer"

    question_hash: str = Field(primary_key=True, max_length=64)
    """SHA-256 of whom was asked what: API, model, longest answer and messages."""
    contender: str = Field(index=True)
    prompt_hash: str = Field(index=True, max_length=64)
    """That of the case's last prompt (`groups.prompt_hash`), so that answers to an erased prompt are found."""
    output: str | None = Field(default=None, sa_type=Text)
    """Null once it was erased; what it cost stays, for the month's budget."""
    finish_reason: str | None = None
    tokens_in: int
    tokens_out: int
    cost: float
    latency_ms: float
    created: float
