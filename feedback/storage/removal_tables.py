"""The tables of what went on purpose: removals, and a tombstone for each row."""

from __future__ import annotations

from sqlalchemy import JSON
from sqlmodel import Field, SQLModel


class Tombstone(SQLModel, table=True):
    """What is left of a row that was erased: enough to prove that it stood here and went on purpose."""

    __tablename__ = "tombstone"

    id: str = Field(primary_key=True, max_length=48)
    """That of the inference or feedback, or `<dataset_id>:<position>` of an example."""
    kind: str
    """`inference`, `feedback` or `example`."""
    content_hash: str = Field(max_length=64)
    erased: float
    erasure_id: str = Field(index=True, max_length=36)
    signature: str = Field(max_length=64)
    """HMAC-SHA256 over all of it, under the data directory's secret."""


class Erasure(SQLModel, table=True):
    """One removal from the record, of a user or by age; open until all its traces are gone."""

    __tablename__ = "erasure"

    id: str = Field(primary_key=True, max_length=36)
    kind: str
    """`user`, `age` or `inference`."""
    subject: str = Field(index=True)
    """Keyed hash of the user: it recognises one that is named again, and names nobody. Of `age`, the days; else the id."""
    requested_by: str
    created: float
    finished: float | None = None
    counts: dict[str, int] = Field(default_factory=dict, sa_type=JSON)
    """How many rows of each kind went."""
    datasets: list[str] = Field(default_factory=list, sa_type=JSON)
    """Dataset versions that rows were taken out of."""
