"""Registered models and their champions. A champion moves only by a decision that is written down (invariant 5).

Nothing here commits: the caller's transaction does, so that a move and what belongs to it stand or fall together.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.registry.arms import end_by_move
from feedback.settings import Settings
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import ModelVersion, Move, RegisteredModel

GATE = "gate"
"""Who decides where nobody does but a cycle."""
MoveKind = Literal["promotion", "rollback"]
SERVABLE = ("registered", "promoted", "rejected")
"""States of versions that can be asked for by name; `rejected` too, so that a person can look at them."""


def ensure_models(session: Session, settings: Settings, now: datetime) -> None:
    """Register every `[[model]]`; several processes may do so at once.

    A model that is given another base goes back to that base's own weights: adapters of the old one do not fit it.
    """
    insert = (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert
    for model in settings.model:
        session.connection().execute(
            insert(RegisteredModel)
            .values(name=model.name, base=model.base, created=now.timestamp(), moves=0)
            .on_conflict_do_nothing(index_elements=["name"])
        )
    for model in settings.model:
        row = lock_model(session, model.name)
        if row.base == model.base:
            continue
        if row.champion is not None:
            reason = f"[[model]] {model.name}: base changed from {row.base!r} to {model.base!r}"
            moved = _move(session, row, None, "rollback", reason, "configuration", None, now)
            facts = {"from": moved.from_version, "to": "base", "reason": reason, "move_id": moved.id}
            note(session, Actor("configuration"), "champion.rollback", row.name, now, **facts)
        row.base, row.previous = model.base, None
        session.add(row)


def get_model(session: Session, name: str) -> RegisteredModel:
    """The model of that name. Raises `NotFoundError`."""
    row = session.get(RegisteredModel, name)
    if row is None:
        raise _unknown(session, name)
    return row


def check_known(session: Session, settings: Settings, name: str | None) -> None:
    """Raise `NotFoundError` for a name that is neither registered nor configured: an empty list of its things would mislead."""
    if name is not None and settings.model_named(name) is None and session.get(RegisteredModel, name) is None:
        known = {model.name for model in settings.model} | set(session.exec(select(RegisteredModel.name)))
        raise NotFoundError(f"there is no model {name[:60]!r}; there are: {', '.join(sorted(known))}")


def lock_model(session: Session, name: str) -> RegisteredModel:
    """The model as it stands now, held against all other transactions that lock it until this one ends."""
    row = session.get(RegisteredModel, name, with_for_update=True, populate_existing=True)
    if row is None:
        raise _unknown(session, name)
    return row


def move_champion(
    session: Session,
    model: str,
    to: str | None,
    kind: MoveKind,
    reason: str,
    decided_by: str,
    cycle_id: str | None,
    now: datetime,
    instead_of: str | None = None,
) -> Move:
    """Make version `to` (None: the base itself) the champion, and write down who decided and why.

    Moves of one model take turns, so each starts from where the one before ended. A cycle that asks again for the
    move that it just made is given that move, and the gate's word moves it once. `instead_of` (`base` is the base) is the champion that
    the decision was made against. Raises `NotFoundError` for an unknown model or version, and
    `ConflictError` where the version cannot serve, is champion already, or is not what a rollback leads to.
    """
    if not reason.strip():
        raise BadFieldError("reason", "is empty; say why the champion moves")
    if not decided_by.strip():
        raise BadFieldError("decided_by", "is empty; a move is made by the gate or in somebody's name")
    row = lock_model(session, model)
    if to == row.champion:
        made = last_move(session, model)
        if made is not None and cycle_id is not None and made.cycle_id == cycle_id:
            return made
        raise ConflictError(f"{model}@{to or 'base'} is the champion already; nothing was moved")
    by_gate = select(Move).where(Move.cycle_id == cycle_id, Move.decided_by == GATE)
    if cycle_id is not None and decided_by == GATE and session.exec(by_gate).first() is not None:
        raise ConflictError(
            f"the cycle {cycle_id} promoted once already, and the champion was moved to {model}@{row.champion or 'base'} since: "
            "nothing was moved"
        )
    check_compared(row, to or "base", instead_of)
    if kind == "rollback" and to != rollback_target(session, model):
        raise ConflictError(
            f"the champion of {model!r} moved in the meantime; look again and repeat the rollback"
        )
    if to is not None:
        _check_servable(session, row, to)
    return _move(session, row, to, kind, reason, decided_by, cycle_id, now)


def check_compared(row: RegisteredModel, number: str, instead_of: str | None) -> None:
    """Raise `ConflictError` where a version was compared with another one than the champion as it is now."""
    if instead_of not in (None, row.champion or "base"):
        raise ConflictError(
            f"{row.name}@{number} was compared with {row.name}@{instead_of}, and the champion is "
            f"{row.name}@{row.champion or 'base'} by now: nothing was moved; compare again"
        )


def rollback_target(session: Session, name: str) -> str | None:
    """The version that a rollback leads to (None: the base), as `champions_before` says.

    Raises `ConflictError` when there is none.
    """
    row = get_model(session, name)
    before = champions_before(session, row)
    if not before:
        raise ConflictError(
            f"there is no champion of {name!r} before {name}@{row.champion or 'base'} to roll back to; promote a "
            "version by name"
        )
    return before[0]


def champions_before(session: Session, row: RegisteredModel) -> list[str | None]:
    """Former champions that rollbacks lead to, nearest first; None is the base.

    Left out is what a rollback has left since it was last promoted, so that a second rollback goes further back, and
    what cannot serve any more.
    """
    moves = session.exec(select(Move).where(Move.model == row.name).order_by(col(Move.position)))
    stack, left = _replayed(moves)
    numbers = session.exec(
        select(ModelVersion.number).where(
            ModelVersion.model == row.name,
            ModelVersion.base == row.base,
            col(ModelVersion.state).in_(SERVABLE),
        )
    )
    possible = ({None, *numbers}) - left - {row.champion}
    return list(dict.fromkeys(number for number in reversed(stack) if number in possible))


def _replayed(moves: Iterable[Move]) -> tuple[list[str | None], set[str | None]]:
    """Champions in turn without those that rollbacks took back, and what rollbacks left since it was last promoted."""
    stack: list[str | None] = [None]
    left: set[str | None] = set()
    for move in moves:
        if move.kind == "rollback":
            left.add(move.from_version)
            while stack and stack[-1] != move.to_version:
                stack.pop()
        left.discard(move.to_version)
        if not stack or stack[-1] != move.to_version:
            stack.append(move.to_version)
    return stack, left


def last_move(session: Session, model: str) -> Move | None:
    """The move that made the champion what it is; None where it never moved."""
    newest = select(Move).where(Move.model == model).order_by(col(Move.position).desc())
    return session.exec(newest.limit(1)).first()


def list_moves(session: Session, model: str | None, limit: int, cursor: str | None) -> Page[Move]:
    """Moves of one model's champion, or of all, newest first."""
    query = select(Move)
    if model is not None:
        query = query.where(Move.model == model)
    return newest_first(session, query, Move, limit, cursor)


def _check_servable(session: Session, row: RegisteredModel, number: str) -> None:
    version = session.exec(
        select(ModelVersion).where(ModelVersion.model == row.name, ModelVersion.number == number)
    ).first()
    if version is None:
        raise NotFoundError(f"the model {row.name!r} has no version {number!r}")
    if version.state not in SERVABLE:
        raise ConflictError(f"{row.name}@{number} is {version.state} and cannot serve")
    if version.base != row.base:
        raise ConflictError(
            f"{row.name}@{number} was trained on the base {version.base!r}, and the model now stands on {row.base!r}"
        )
    if version.state != "promoted":
        version.state = "promoted"
        session.add(version)


def _move(
    session: Session,
    row: RegisteredModel,
    to: str | None,
    kind: MoveKind,
    reason: str,
    decided_by: str,
    cycle_id: str | None,
    now: datetime,
) -> Move:
    move = Move(
        id=new_id(now),
        model=row.name,
        position=row.moves + 1,
        kind=kind,
        from_version=row.champion,
        to_version=to,
        reason=reason,
        decided_by=decided_by,
        cycle_id=cycle_id,
        created=now.timestamp(),
    )
    row.previous, row.champion = row.champion, to
    row.moves += 1
    session.add(row)
    session.add(move)
    end_by_move(session, move)
    return move


def _unknown(session: Session, name: str) -> NotFoundError:
    known = ", ".join(session.exec(select(RegisteredModel.name).order_by(RegisteredModel.name))) or "none yet"
    return NotFoundError(f"there is no model {name[:60]!r}; registered are: {known}")
