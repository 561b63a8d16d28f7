"""Pages of a list, newest first, continued from the last id seen rather than from an offset."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from feedback.errors import BadFieldError
from feedback.ids import parse_id

T = TypeVar("T")


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
