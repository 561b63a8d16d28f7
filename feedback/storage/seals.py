"""The hashes of rows that live on: evaluation cases and failure cases, sealed anew whenever they are written.

Whoever writes such a row through its class cannot forget the seal; who changes it past Starloop leaves it broken, and `db
verify` says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from sqlalchemy import JSON, Table, Text, cast, event, select
from sqlmodel import Session, SQLModel

T = TypeVar("T", bound=SQLModel)
_SEALED: dict[type[SQLModel], tuple[str, ...]] = {}
_READ = 1000


def sealed(*names: str) -> Callable[[type[T]], type[T]]:
    """A table whose `content_hash` is, from each write through its class, that of the columns of these names."""

    def register(kind: type[T]) -> type[T]:
        _SEALED[kind] = names
        event.listen(kind, "before_insert", _seal)
        event.listen(kind, "before_update", _seal)
        return kind

    return register


def seal_of(kind: type[SQLModel], row: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over what is sealed of a row, as JSON: for whoever writes past the class."""
    text = json.dumps([row[name] for name in _SEALED[kind]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def broken_seals(session: Session, kind: type[SQLModel]) -> Iterator[str]:
    """Ids of rows that are not what was written, damaged ones too."""
    table: Table = kind.__table__  # type: ignore[attr-defined]
    columns = [cast(one, Text).label(one.name) if isinstance(one.type, JSON) else one for one in table.c]
    rows = session.connection().execute(select(*columns), execution_options={"yield_per": _READ}).mappings()
    for row in rows:
        found = dict(row)
        try:
            for column in table.c:
                if isinstance(column.type, JSON) and found[column.name] is not None:
                    found[column.name] = json.loads(found[column.name])
            whole = seal_of(kind, found) == found["content_hash"]
        except (ValueError, TypeError):  # no JSON any more
            whole = False
        if not whole:
            yield str(found["id"])


def _seal(_mapper: Any, _connection: Any, row: Any) -> None:
    kind = type(row)
    row.content_hash = seal_of(kind, {name: getattr(row, name) for name in _SEALED[kind]})
