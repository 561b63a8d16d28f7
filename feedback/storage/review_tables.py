"""The tables of what waits for a reviewer beside failure cases (raters who are held, corrections that models proposed), and of
who is looking at which case."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from feedback.storage.partial import only

FAILURES_BY_STATE = Index("failure_state", "model", "state", "id", "resolved", "inference_id")
"""Of `failure`: those that wait are counted, and put in order, without a look at their rows."""
FAILURES_RESOLVED = Index("failure_resolved", "model", "resolved", **only("resolved IS NOT NULL"))
"""Of `failure`: what people decided lately."""


class RaterHold(SQLModel, table=True):
    """What many new raters said about one target in a short time, held for a reviewer together."""

    __tablename__ = "rater_hold"

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    created: float
    kind: str
    """`group` (near-duplicate prompts), `correction` (one and the same) or `version`."""
    target: str = Field(sa_type=Text)
    feedback: list[str] = Field(sa_type=JSON)
    """Ids of the feedback that waits."""
    reason: str = Field(sa_type=Text)
    state: str = "held"
    """`held`, `released` (it counts) or `upheld` (it never does)."""
    decided_by: str | None = None
    decided: float | None = None


class Candidate(SQLModel, table=True):
    """A proposed correction that no person wrote: a teacher's, or the best of several answers of the model's own."""

    __tablename__ = "candidate"
    __table_args__ = (
        UniqueConstraint("inference_id", "source"),
        Index("candidate_state", "model", "state", "decided"),
        Index("candidate_accepted", "inference_id", **only("state = 'accepted'")),
    )

    id: str = Field(primary_key=True, max_length=36)
    inference_id: str = Field(max_length=36)
    """Of the failure case that it is for."""
    model: str
    source: str
    """`teacher` or `best-of-n`."""
    origin: str
    """Which model wrote it: the teacher's name, or `assistant@1.2`."""
    request_hash: str = Field(index=True, max_length=64)
    """SHA-256 of what was asked: the same is not asked, nor paid for, twice."""
    answer: str = Field(sa_type=Text)
    checks: list[dict[str, Any]] = Field(sa_type=JSON)
    """`[{check, passed, told}]`."""
    state: str
    """`checked` (passed all checks), `failed` (did not), `accepted` or `rejected` (by a person)."""
    tokens: int = 0
    cost: float = 0.0
    """In the currency of `[teacher] price_in` and `price_out`."""
    created: float
    decided_by: str | None = None
    decided: float | None = None


class ReviewOpinion(SQLModel, table=True):
    """What one reviewer thinks of a failure case, where two must agree."""

    __tablename__ = "review_opinion"

    failure_id: str = Field(primary_key=True, max_length=36)
    reviewer: str = Field(primary_key=True)
    """The owner of the key: two keys of one person are one reviewer."""
    inference_id: str = Field(index=True, max_length=36)
    model: str = Field(index=True)
    action: str
    """`correct`, `accept` or `dismiss`."""
    correction: str | None = Field(default=None, sa_type=Text)
    created: float


class ReviewClaim(SQLModel, table=True):
    """A failure case that somebody is looking at, so that nobody else is given it. Ends by itself."""

    __tablename__ = "review_claim"

    failure_id: str = Field(primary_key=True, max_length=36)
    holder: str = Field(index=True, max_length=128)
    """The key and the page: two people behind one key are two holders."""
    expires: float
