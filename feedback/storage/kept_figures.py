"""What took long to find, kept for all who may show it, until something is erased: it may tell of that."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete, select

from feedback.storage.figures_table import KeptFigures
from feedback.storage.lease_table import Lease

_KEPT = 64
"""Of each kind, the newest."""
_LEASE = "figures "


class Standing(NamedTuple):
    """How they stand, without what was found."""

    id: str
    begun: float
    problem: str | None


def lease_name(kind: str, key: str) -> str:
    """The lease under which one worker alone finds it. It is lost where something is erased meanwhile."""
    return f"{_LEASE}{kind} {key}"


def standing(session: Session, kind: str, key: str) -> Standing | None:
    """None of what was never found, or is forgotten."""
    query = select(KeptFigures.id, KeptFigures.begun, KeptFigures.problem).where(
        KeptFigures.kind == kind, KeptFigures.key == key
    )
    found = session.exec(query).first()
    return None if found is None else Standing(*found)


def value_of(session: Session, kind: str, key: str) -> str | None:
    """What was found, as JSON."""
    return session.exec(
        select(KeptFigures.value).where(KeptFigures.kind == kind, KeptFigures.key == key)
    ).first()


def keep_figures(session: Session, row: KeptFigures) -> None:
    """Keep it in the place of the one before, whose value stays where this one has a problem. The caller commits."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    values = row.model_dump()
    changed = values if row.problem is None else {name: values[name] for name in ("id", "begun", "problem")}
    session.exec(
        dialect.insert(KeptFigures)
        .values(values)
        .on_conflict_do_update(index_elements=["kind", "key"], set_=changed)
    )
    newest = (
        select(KeptFigures.key)
        .where(KeptFigures.kind == row.kind)
        .order_by(col(KeptFigures.begun).desc())
        .limit(_KEPT)
    )
    session.exec(
        delete(KeptFigures).where(col(KeptFigures.kind) == row.kind, col(KeptFigures.key).not_in(newest))
    )


def standing_ids(session: Session) -> set[str]:
    """The ids of all that is kept."""
    return set(session.exec(select(KeptFigures.id)))


def forget_figures(session: Session) -> None:
    """Forget all, what is being found too; the caller commits, together with what it erases."""
    # The leases first: who keeps a finding just now holds one until that is in, and then it goes as well.
    session.exec(delete(Lease).where(col(Lease.name).startswith(_LEASE, autoescape=True)))
    session.exec(delete(KeptFigures))
