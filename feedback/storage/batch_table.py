"""The tables of batches; their input and their output are kept files (`file_table`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Text
from sqlmodel import Field, SQLModel


class RequestBatch(SQLModel, table=True):
    """A file of requests to be answered, and how far that is."""

    __tablename__ = "request_batch"

    id: str = Field(primary_key=True, max_length=36)
    status: str = Field(default="validating", index=True)
    """As in OpenAI's API: `validating`, `in_progress`, `finalizing`, `completed`, `failed`, `cancelling`, `cancelled`, `expired`."""
    endpoint: str
    input_file_id: str = Field(max_length=36)
    output_file_id: str | None = Field(default=None, max_length=36)
    error_file_id: str | None = Field(default=None, max_length=36)
    metadata_: dict[str, Any] | None = Field(
        default=None, sa_type=JSON, sa_column_kwargs={"name": "metadata"}
    )
    created: float
    expires: float
    times: dict[str, float] = Field(default_factory=dict, sa_type=JSON)
    """When each status was reached."""
    errors: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    """`[{code, line, message, param}]`: why it failed."""
    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    owner: str
    key_id: str | None = Field(default=None, index=True)
    """The key that it was made with, and that its requests are made with. Null: from this machine, without a key."""


class BatchAnswer(SQLModel, table=True):
    """What came of one line, until all of them stand in the output files."""

    __tablename__ = "batch_answer"

    batch_id: str = Field(primary_key=True, max_length=36)
    line: int = Field(primary_key=True)
    answered: bool
    """It goes to the output file; otherwise to the error file."""
    content: str = Field(sa_type=Text)
    """The line of that file, as JSON."""
