"""Asking for cycles and looking at them. Who runs them is the loop's business: here is only the row.

Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session, col, select

from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.registry.models import lock_model
from feedback.settings import Mode
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Cycle

REPEAT = "repeat"
GUARDS = ("raters", "replay", "size", REPEAT)
"""Guards that a cycle may be asked to do without, by name: three of curation, and that nothing is trained again that was turned down."""
OPEN = ("queued", "running", "canary")
"""States of a cycle that has not ended."""

_DOING = {"queued": "queued", "running": "running", "canary": "in its canary, where users decide"}


def request_cycle(
    session: Session, model: str, mode: Mode, guards_off: Sequence[str], requested_by: str, now: datetime
) -> Cycle:
    """Queue a cycle. Raises `ConflictError` while one of that model has not ended: they take turns."""
    unknown = [guard for guard in guards_off if guard not in GUARDS]
    if unknown:
        raise BadFieldError(
            "guards_off", f"there is no guard {', '.join(unknown)}; there are {', '.join(GUARDS)}"
        )
    lock_model(session, model)
    open_ = session.exec(select(Cycle).where(Cycle.model == model, col(Cycle.state).in_(OPEN))).first()
    if open_ is not None:
        raise ConflictError(
            f"cycle {open_.id} of {model!r} is {_DOING[open_.state]}; wait for its end, or cancel it with "
            f"`starloop cycle cancel {open_.id}`"
        )
    cycle = Cycle(
        id=new_id(now),
        model=model,
        mode=mode,
        guards_off=sorted(set(guards_off)),
        requested_by=requested_by,
        created=now.timestamp(),
        updated=now.timestamp(),
    )
    session.add(cycle)
    session.flush()
    return cycle


def cancel_cycle(session: Session, identifier: str, now: datetime) -> Cycle:
    """Ask a cycle to end: a queued one has ended with that, a running one does at its next safe point.

    Raises `ConflictError` when it has ended already.
    """
    cycle = session.get(Cycle, identifier, with_for_update=True, populate_existing=True)
    if cycle is None:
        raise _unknown(identifier)
    if cycle.state not in OPEN:
        raise ConflictError(f"cycle {identifier} is {cycle.state}; there is nothing left to cancel")
    # Asked for in every case: the loop may be taking it up at this very moment.
    cycle.cancel_requested = True
    if cycle.state == "queued":
        cycle.state, cycle.reason = "cancelled", "cancelled before it began"
    cycle.updated = now.timestamp()
    session.add(cycle)
    return cycle


def get_cycle(session: Session, identifier: str) -> Cycle:
    """One cycle. Raises `NotFoundError`."""
    cycle = session.get(Cycle, identifier)
    if cycle is None:
        raise _unknown(identifier)
    return cycle


def list_cycles(session: Session, model: str | None, limit: int, cursor: str | None) -> Page[Cycle]:
    """Cycles of one model, or of all, newest first."""
    query = select(Cycle)
    if model is not None:
        query = query.where(Cycle.model == model)
    return newest_first(session, query, Cycle, limit, cursor)


def _unknown(identifier: str) -> NotFoundError:
    return NotFoundError(
        f"there is no cycle {identifier[:60]!r}; `starloop cycle list` shows those there are"
    )
