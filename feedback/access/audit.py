"""The audit log: who did what to keys, champions, versions, canaries, cycles, failure cases and evaluation cases, and who
had what erased.

Written in the transaction of the act itself, so that neither stands without the other; the database refuses to change or
delete a row. It names things by id and holds no secret and nothing that a user wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from sqlmodel import Session, col, select

from feedback.ids import new_id
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Audit

Act = Literal[
    "key.create",
    "key.revoke",
    "champion.promote",
    "champion.rollback",
    "version.reject",
    "version.retire",
    "version.import",
    "canary.begin",
    "canary.end",
    "cycle.start",
    "cycle.cancel",
    "failure.resolve",
    "failure.reopen",
    "case.draw",
    "case.confirm",
    "case.drop",
    "record.erase",
    "record.expire",
    "data.import",
    "file.upload",
    "file.delete",
    "upload.begin",
    "upload.part",
    "upload.cancel",
    "completion.delete",
    "batch.create",
    "batch.cancel",
    "fine_tuning.create",
    "fine_tuning.cancel",
    "fine_tuning.pause",
    "fine_tuning.resume",
    "fine_tuning.delete",
    "hold.release",
    "hold.uphold",
    "candidate.accept",
    "candidate.reject",
]
ACTS: tuple[Act, ...] = get_args(Act)


class Actor(NamedTuple):
    """Who acts: the owner of a key, a user of this machine, or a part of Starloop itself."""

    name: str
    key_id: str | None = None


def note(session: Session, actor: Actor, act: Act, subject: str, now: datetime, **details: Any) -> None:
    """Write down an act on `subject` (an id, a model's name); the caller commits, with the act itself."""
    session.add(
        Audit(
            id=new_id(now),
            created=now.timestamp(),
            actor=actor.name,
            key_id=actor.key_id,
            act=act,
            subject=subject,
            details=details,
        )
    )


def acts_on(session: Session, subject: str, acts: Sequence[Act]) -> list[Audit]:
    """What was done to a subject, of these kinds, oldest first."""
    query = select(Audit).where(Audit.subject == subject, col(Audit.act).in_(acts)).order_by(col(Audit.id))
    return list(session.exec(query))


def list_audit(session: Session, act: str | None, limit: int, cursor: str | None) -> Page[Audit]:
    """Acts of one kind, or all, newest first."""
    query = select(Audit)
    if act is not None:
        query = query.where(Audit.act == act)
    return newest_first(session, query, Audit, limit, cursor)
