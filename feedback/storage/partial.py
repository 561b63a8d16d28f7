"""Indexes over some rows alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text


def only(condition: str) -> dict[str, Any]:
    """The arguments of an `Index` over the rows that meet a condition in SQL, the same on both databases."""
    return dict.fromkeys(("sqlite_where", "postgresql_where"), text(condition))
