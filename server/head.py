"""How large a request's head may be.

The HTTP server looks at its buffer only while a head is incomplete: one that comes in few reads may be nearly twice
as large as the bound that it was given. So what it let through is measured again.
"""

from __future__ import annotations

from collections.abc import Iterable

from feedback.errors import HeadTooLargeError

HEAD_BYTES = 128 * 1024


def check_head(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises `HeadTooLargeError` when names and values together are above the bound."""
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
    if size > HEAD_BYTES:
        raise HeadTooLargeError(f"the request's headers have {size} bytes; {HEAD_BYTES} are the most")
