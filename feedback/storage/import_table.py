"""The table of imports, part of `tables`: files of rows that were taken in."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, UniqueConstraint
from sqlmodel import Field, SQLModel


class DataImport(SQLModel, table=True):
    """A file of rows taken in for a model. They stand in `imports/<id>/`, with the file as it was given."""

    __tablename__ = "data_import"
    __table_args__ = (UniqueConstraint("model", "content_hash"),)

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    name: str
    """The file's own name, without its folders."""
    format: str
    columns: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    """Which column was read as what."""
    use: str = "learn"
    """`learn`: its rows are new examples. `replay`: old ones, not to be forgotten. `tuning`: of a fine-tuning alone."""
    original_hash: str
    """SHA-256 of the file as it was given."""
    original_bytes: int = Field(sa_type=BigInteger)
    content_hash: str
    """SHA-256 of the canonical rows."""
    rows: int
    examples: int
    """Answers in them that can be learned."""
    bad: int
    """Rows left out, with `--skip-bad`."""
    created: float
    created_by: str
