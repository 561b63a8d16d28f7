"""The table of evaluation cases, part of `tables`: what versions are judged by."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Text
from sqlmodel import Field, SQLModel

from feedback.storage.seals import sealed

JUDGING = ("drawn", "confirmed")
"""States of cases that versions are, or will be, judged by."""


@sealed(
    "id",
    "model",
    "suite",
    "state",
    "inference_id",
    "prompt_hash",
    "group_key",
    "messages",
    "tools",
    "answer",
    "version",
    "slice",
    "critical",
    "confirmed_by",
)
class Case(SQLModel, table=True):
    """A prompt (OpenAI chat form, and its tools) with its right answer.

    A golden case's is made or confirmed by a person, and feedback cannot reach it; a regression case's came with the model, was
    imported, or was praised by raters who are believed.
    """

    __tablename__ = "evaluation_case"

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    suite: str
    """`golden`: drawn at random from live prompts, blind to outcome. `regression`: old skill, to be kept."""
    state: str = Field(default="drawn")
    """`drawn` (waits for a person), `confirmed`, `dropped` (for good), `lapsed` (was praised, and something speaks against it)."""
    inference_id: str | None = Field(default=None, max_length=36)
    asker: str | None = Field(default=None, index=True, max_length=64)
    """A keyed hash of the user who asked, once age has taken the inference: an erasure finds the case by it."""
    prompt_hash: str = Field(index=True, max_length=64)
    group_key: str = Field(max_length=64)
    messages: list[dict[str, Any]] = Field(sa_type=JSON)
    tools: list[Any] | None = Field(default=None, sa_type=JSON)
    answer: str | None = Field(default=None, sa_type=Text)
    version: str | None = None
    """Whose answer it is where it was praised (`base`, or a number); null for all other cases."""
    slice: str | None = None
    critical: bool = False
    """A person said that no new version may lose this golden case."""
    created: float
    confirmed: float | None = None
    confirmed_by: str | None = None
    content_hash: str = Field(default="", max_length=64)
    """SHA-256 over all but the times (`seals`); `db verify` recomputes it."""
