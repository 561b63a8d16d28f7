"""How large a request's head may be.

`server.protocol` bounds what a connection may send before a head is complete, in whole reads; this is the exact bound.
"""

from __future__ import annotations

from collections.abc import Iterable

from feedback.errors import HeadTooLargeError

HEAD_BYTES = 128 * 1024
FIELDS = 100


def check_head(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises `HeadTooLargeError` when names and values together, or their number, are above the bound."""
    size = fields = 0
    for name, value in headers:
        size += len(name) + len(value)
        fields += 1
    if fields > FIELDS:
        raise HeadTooLargeError(f"the request has {fields} headers; {FIELDS} are the most")
    if size > HEAD_BYTES:
        raise HeadTooLargeError(f"the request's headers have {size} bytes; {HEAD_BYTES} are the most")
