"""The table of notices about what ended, part of `tables`: what was told to whom, and whether it arrived."""

from __future__ import annotations

from sqlmodel import Field, SQLModel, Text


class Notice(SQLModel, table=True):
    """The end of a cycle, a watch or a canary, told over one channel."""

    __tablename__ = "notice"

    cycle_id: str = Field(primary_key=True, max_length=36)
    """Id of what ended."""
    channel: str = Field(primary_key=True, max_length=16)
    """`webhook` or `email`."""
    state: str
    """`sending` (it is tried again), `sent`, or `failed` (it was given up)."""
    attempts: int = 0
    told: str = Field(default="", sa_type=Text)
    """What the last attempt came to, in words."""
    next_attempt: float = 0.0
    updated: float
