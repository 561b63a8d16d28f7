"""Two tables beside those of a life (`tables.py`): what came when, and how far triage has looked."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class Arrival(SQLModel, table=True):
    """One batch that the drainer brought: between which ids its rows are. What triage reads on from.

    Ids tell when a row was made, which may be hours before it came here.
    """

    __tablename__ = "arrival"

    id: int | None = Field(default=None, primary_key=True)
    stored: float = Field(index=True)
    first_inference: str | None = Field(default=None, max_length=36)
    last_inference: str | None = Field(default=None, max_length=36)
    first_feedback: str | None = Field(default=None, max_length=36)
    last_feedback: str | None = Field(default=None, max_length=36)


class TriageMark(SQLModel, table=True):
    """How far triage has looked at a model's traffic, and by which rules."""

    __tablename__ = "triage_mark"

    model: str = Field(primary_key=True)
    stored: float
    """`Arrival.stored` of the last batch that was looked at."""
    rules: str = Field(max_length=64)
    """Hash of the settings and the contract; under others everything is looked at again."""


class RecordCount(SQLModel, table=True):
    """How many rows the journals have ever brought here, so that a row lost afterwards shows in `db verify`."""

    __tablename__ = "record_count"

    shard: int = Field(primary_key=True)
    """Journals are spread over a few rows, so that gateways do not wait for one another."""
    inferences: int = Field(default=0, sa_type=BigInteger)
    feedback: int = Field(default=0, sa_type=BigInteger)
