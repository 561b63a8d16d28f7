"""The table of what clients changed about their stored completions; the inference itself stays as it was captured."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON
from sqlmodel import Field, SQLModel


class CompletionMetadata(SQLModel, table=True):
    """Metadata that was laid over an inference's own, which its content hash covers and nobody changes."""

    __tablename__ = "completion_metadata"

    inference_id: str = Field(primary_key=True, max_length=36)
    metadata_: dict[str, Any] = Field(sa_type=JSON, sa_column_kwargs={"name": "metadata"})
    changed: float
