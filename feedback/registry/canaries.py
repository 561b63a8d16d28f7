"""Canaries and watches in the record: how they begin and end, and what is known of them.

A canary gives a challenger some of the users before it is promoted; a watch leaves some of them with the champion before,
after a promotion. Both end by what the users' ratings and the guardrails say (`trainer.canary`), by a person, or when
the champion moves (`arms.end_by_move`). Nothing here commits.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.registry.arms import Kind, open_canary
from feedback.registry.models import (
    GATE,
    SERVABLE,
    champions_before,
    check_compared,
    get_model,
    last_move,
    lock_model,
)
from feedback.registry.versions import get_version, reject_version
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Canary, Move

BASE = "base"
End = Literal["passed", "rolled_back", "withdrawn"]


def begin_canary(
    session: Session,
    model: str,
    version: str,
    share: float,
    hours: float,
    reason: str,
    actor: Actor,
    cycle_id: str | None,
    now: datetime,
    instead_of: str | None = None,
) -> Canary:
    """Give `version` a share (0..1) of the model's users for at most `hours`, beside the champion.

    `instead_of`: the champion that it was compared with. A cycle that asks again gets the canary that it has. Ends a watch that
    goes on. Raises `NotFoundError`, and `ConflictError` where the version is the champion, cannot serve, was compared with another
    champion, or another canary is open.
    """
    row = lock_model(session, model)
    number = version.removeprefix(f"{model}@")
    known = None if cycle_id is None else canary_of(session, cycle_id, "canary")
    if known is not None:
        return known
    against = row.champion or BASE
    if number == against:
        raise ConflictError(f"{model}@{number} is the champion already; there is nothing to compare it with")
    check_compared(row, number, instead_of)
    if number != BASE:
        found = get_version(session, model, number)
        if found.state not in SERVABLE or found.base != row.base:
            raise ConflictError(
                f"{model}@{number} is {found.state} on the base {found.base!r}, the model stands on {row.base!r}: "
                "it cannot serve"
            )
    before = open_canary(session, model)
    if before is not None and before.kind == "canary":
        raise ConflictError(
            f"{model}@{before.version} is in its canary; end that first, with a reason: starloop models "
            f"end-canary {model}, or POST /v1/models/{model}/canary/end"
        )
    if before is not None:
        _end(
            session,
            before,
            "withdrawn",
            f"the canary of {model}@{number} begins before its time was up",
            actor,
            now,
        )
    return _begin(session, "canary", model, number, against, share, hours, reason, actor, cycle_id, None, now)


def begin_watch(
    session: Session,
    model: str,
    version: str,
    against: str,
    share: float,
    hours: float,
    actor: Actor,
    cycle_id: str | None,
    now: datetime,
    move_id: str | None = None,
) -> Canary | None:
    """Leave a share of the users with the champion before, after `version` was promoted by a cycle or a person.

    A cycle that asks again gets the watch that there is; None where another version is champion by now, or a comparison goes on.
    """
    row = lock_model(session, model)
    known = None if cycle_id is None else canary_of(session, cycle_id, "watch")
    if known is not None or (row.champion or BASE) != version or open_canary(session, model) is not None:
        return known
    newest = (
        select(Canary).where(Canary.model == model, Canary.kind == "canary").order_by(col(Canary.id).desc())
    )
    canary = session.exec(newest.limit(1)).first()
    passed = canary is not None and canary.version == version and canary.state == "passed"
    salt = canary.salt if canary is not None and passed else None
    reason = f"{model}@{version} was promoted"
    watch = _begin(
        session, "watch", model, version, against, share, hours, reason, actor, cycle_id, salt, now
    )
    watch.move_id = move_id
    session.flush()
    return watch


def unwatched_promotion(session: Session, model: str, since: float) -> Move | None:
    """The move that made the champion, where a person promoted it, not before `since` (Unix seconds), the one before can serve, and
    users have compared nothing since then. What the gate promotes is watched by its cycle."""
    move = last_move(session, model)
    if move is None or move.kind != "promotion" or move.decided_by == GATE or move.to_version is None:
        return None
    if move.created < since or champions_before(session, get_model(session, model))[:1] != [
        move.from_version
    ]:
        return None
    # by its name besides, as the clock that the comparison began by is another's, or was set since
    compared = select(Canary.id).where(
        Canary.model == model, (col(Canary.move_id) == move.id) | (col(Canary.created) >= move.created)
    )
    return None if session.exec(compared).first() is not None else move


def end_canary(
    session: Session, identifier: str, state: End, reason: str, actor: Actor, now: datetime
) -> Canary:
    """End an open canary or watch without moving the champion; one that has ended stays as it is.

    A challenger that is rolled back is marked rejected.
    """
    row = session.get(Canary, identifier, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFoundError(f"there is no canary {identifier[:60]!r}")
    if row.state == "open":
        _end(session, row, state, reason, actor, now)
        if state == "rolled_back" and row.kind == "canary" and row.version != BASE:
            reject_version(session, row.model, row.version, now)
    return row


def canary_of(session: Session, cycle_id: str, kind: Kind) -> Canary | None:
    """The canary, or the watch, that a cycle began."""
    return session.exec(select(Canary).where(Canary.cycle_id == cycle_id, Canary.kind == kind)).first()


def open_canaries(session: Session) -> list[Canary]:
    """All that go on, oldest first."""
    return list(session.exec(select(Canary).where(Canary.state == "open").order_by(col(Canary.id))))


def list_canaries(session: Session, model: str, limit: int, cursor: str | None) -> Page[Canary]:
    """A model's canaries and watches, newest first."""
    return newest_first(session, select(Canary).where(Canary.model == model), Canary, limit, cursor)


def _begin(
    session: Session,
    kind: Kind,
    model: str,
    version: str,
    against: str,
    share: float,
    hours: float,
    reason: str,
    actor: Actor,
    cycle_id: str | None,
    salt: str | None,
    now: datetime,
) -> Canary:
    if not 0 < share < 1:
        raise BadFieldError("share", f"is {share:g}; some of the users, but not all: between 0 and 1")
    if not reason.strip():
        raise BadFieldError("reason", "is empty; say why users are to compare these versions")
    identifier = new_id(now)
    row = Canary(
        id=identifier,
        model=model,
        kind=kind,
        version=version,
        against=against,
        share=share,
        salt=salt or cycle_id or identifier,
        started_by=actor.name,
        cycle_id=cycle_id,
        created=now.timestamp(),
        limit=now.timestamp() + 3600 * hours,
    )
    session.add(row)
    session.flush()
    facts = {"kind": kind, "version": version, "against": against, "share": share, "reason": reason}
    note(session, actor, "canary.begin", model, now, canary_id=row.id, cycle_id=cycle_id, **facts)
    return row


def _end(session: Session, row: Canary, state: End, reason: str, actor: Actor, now: datetime) -> None:
    row.state, row.reason, row.ended = state, reason, now.timestamp()
    session.add(row)
    session.flush()
    facts = {"kind": row.kind, "version": row.version, "state": state, "reason": reason}
    note(session, actor, "canary.end", row.model, now, canary_id=row.id, cycle_id=row.cycle_id, **facts)
