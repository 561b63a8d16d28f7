"""How large a request's head may be, and what stands in it once at most.

`server.protocol` bounds what a connection may send before a head is complete, in whole reads; this is the exact bound.
"""

from __future__ import annotations

from collections.abc import Iterable

from feedback.errors import BadInputError, HeadTooLargeError

HEAD_BYTES = 128 * 1024
FIELDS = 100
_ONCE = frozenset((b"host", b"origin"))
"""What says whether a request is from this machine: of two, a proxy in front may have looked at the other."""


def check_head(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises `HeadTooLargeError` when names and values together, or their number, are above the bound; `BadInputError` when
    one that stands for the whole request stands twice. Names are lower case.
    """
    size = fields = 0
    once = set()
    for name, value in headers:
        size += len(name) + len(value)
        fields += 1
        if name in _ONCE:
            if name in once:
                raise BadInputError(f"the header {name.decode()} stands twice; send it once")
            once.add(name)
    if fields > FIELDS:
        raise HeadTooLargeError(f"the request has {fields} headers; {FIELDS} are the most")
    if size > HEAD_BYTES:
        raise HeadTooLargeError(f"the request's headers have {size} bytes; {HEAD_BYTES} are the most")
