"""The table of fine-tunings that clients ask for with a file, as OpenAI's API has them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field, SQLModel


class Tuning(SQLModel, table=True):
    """One fine-tuning: what was asked for, where it stands and what came of it. The loop runs it, clients ask."""

    __tablename__ = "fine_tuning"

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    """Registered name of which the result becomes a version."""
    base: str
    asked: str
    """What the client wrote under `model`."""
    state: str = Field(default="validating_files", index=True)
    """`validating_files`, `queued`, `running`, `paused`, `succeeded`, `failed`, `cancelled`."""
    wanted: str | None = None
    """`cancel` or `pause`: what a running one was asked to do and has not done yet."""
    training_file: str = Field(max_length=36)
    validation_file: str | None = Field(default=None, max_length=36)
    training_import: str | None = Field(default=None, max_length=36)
    """The import that the file was taken in as; its rows stay when the file is deleted."""
    validation_import: str | None = Field(default=None, max_length=36)
    method: str
    """`supervised` or `dpo`."""
    hyperparameters: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """Those that were given; once it has succeeded, those it was trained with."""
    seed: int = Field(sa_type=BigInteger)
    suffix: str = ""
    metadata_: dict[str, Any] | None = Field(
        default=None, sa_type=JSON(none_as_null=True), sa_column_kwargs={"name": "metadata"}
    )
    messages: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    """`[{time, level, text, kind}]`: what happened, beside the steps of its training."""
    dataset_id: str | None = Field(default=None, max_length=36)
    version: str | None = None
    alias: str | None = Field(default=None, unique=True)
    """The name `ft:…` under which the version is called too."""
    result_file: str | None = Field(default=None, max_length=36)
    trained_tokens: int | None = Field(default=None, sa_type=BigInteger)
    error: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    """`{code, message, param}`, where it failed."""
    created: float
    finished: float | None = None
    owner: str
    key_id: str | None = Field(default=None, index=True)
    """The key that asked; who has another does not see it."""
