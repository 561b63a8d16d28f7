"""Pages of a list, newest first, continued from the last id seen rather than from an offset."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from msgspec import Struct
from sqlmodel import Session, col
from sqlmodel.sql.expression import SelectOfScalar

from feedback.errors import BadFieldError
from feedback.ids import parse_id

T = TypeVar("T")


class Listed(Protocol):
    """A row of a list: its id is a UUIDv7, and sorts by age."""

    id: str


R = TypeVar("R", bound=Listed)


class Page(Struct, Generic[T], frozen=True):
    """`next_cursor` is the id of the page's last item, or null on the last page."""

    items: list[T]
    next_cursor: str | None


def id_of_cursor(cursor: str) -> str:
    """The id after which the page begins. Raises `BadFieldError` for what is no cursor."""
    try:
        return parse_id(cursor)
    except BadFieldError:
        raise BadFieldError("cursor", f"{cursor[:60]!r} is not a next_cursor of this list") from None


def id_after(after: str, prefix: str, what: str) -> str:
    """The record's id out of the `after` of OpenAI's lists. Raises `BadFieldError` for what is not the id of `what`."""
    try:
        return parse_id(after.removeprefix(prefix))
    except BadFieldError:
        raise BadFieldError("after", f"{after[:60]!r} is not the id of {what}") from None


def newest_first(
    session: Session, query: SelectOfScalar[R], table: type[R], limit: int, cursor: str | None
) -> Page[R]:
    """A page of what `query` selects from `table`. Raises `BadFieldError` for what is no cursor."""
    if cursor is not None:
        query = query.where(col(table.id) < id_of_cursor(cursor))
    found = list(session.exec(query.order_by(col(table.id).desc()).limit(limit + 1)))
    items = found[:limit]
    return Page(items, items[-1].id if len(found) > limit else None)
