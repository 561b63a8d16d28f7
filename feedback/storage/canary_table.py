"""The table of canaries and watches, part of `tables`: two versions of a model that answer different users at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index, Text
from sqlmodel import Field, SQLModel

from feedback.storage.partial import only

_OPEN = only("state = 'open'")


class Canary(SQLModel, table=True):
    """One comparison by users. Of each model at most one is open."""

    __tablename__ = "canary"
    __table_args__ = (Index("canary_open", "model", unique=True, **_OPEN),)

    id: str = Field(primary_key=True, max_length=36)
    model: str = Field(index=True)
    kind: str
    """`canary`: the challenger gets a share of the users. `watch`: the champion before keeps one."""
    version: str
    """Number of the version on trial: the challenger, or in a watch the champion that was just promoted."""
    against: str
    """What it is compared with: the champion, or in a watch the one before; `base` is the base itself."""
    share: float
    """Of the users, 0..1: who gets the challenger, or in a watch the champion before."""
    salt: str
    """What users are dealt to the arms by; a watch takes its canary's, so that nobody changes arms for no reason."""
    state: str = "open"
    """`open`, `passed`, `rolled_back`, or `withdrawn` (a person, another move, or the loop without a verdict ended it)."""
    reason: str | None = Field(default=None, sa_type=Text)
    """Why it ended, in words; why it began stands in the audit log."""
    started_by: str
    cycle_id: str | None = Field(default=None, index=True, max_length=36)
    move_id: str | None = Field(default=None, max_length=36)
    """The person's promotion that is watched."""
    result: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """The numbers of the last look (`trainer.canary`)."""
    created: float
    """When it began (Unix seconds), by the clock as it is set now."""
    limit: float
    """When it ends for want of evidence (Unix seconds)."""
    extended: bool = False
    """It was given its time once more, as nothing was shown."""
    ended: float | None = None
