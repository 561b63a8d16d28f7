"""Run by Alembic for each command; the connection comes with an open transaction from `upgrade`."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from feedback.storage import (  # noqa: F401  (they fill the metadata)
    arrival_tables,
    batch_table,
    completion_table,
    contender_table,
    figures_table,
    file_table,
    removal_tables,
    tables,
)


def _render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """SQLModel's own string type is plain SQL; revisions need not know it."""
    if kind == "type" and isinstance(item, AutoString):
        return "sa.String()" if item.length is None else f"sa.String({item.length})"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    render_item=_render,
    render_as_batch=context.config.attributes.get(
        "batch", True
    ),  # SQLite changes a column by copying its table
)
with context.begin_transaction():
    context.run_migrations()
