"""Identifiers: UUIDv7, so that every id carries the moment it was made and sorts by it."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from feedback.errors import BadFieldError

_PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "embd-")
_FETCHED = 256


class _Randomness:
    """The kernel's random bytes, fetched for many ids at once: each call lets go of the interpreter's lock."""

    def __init__(self) -> None:
        self._pieces: Iterator[bytes] = iter(())
        os.register_at_fork(after_in_child=self._drop)  # or two processes would make the same ids

    def take(self) -> bytes:
        """Eight bytes that nobody else gets."""
        piece = next(self._pieces, None)  # one step for the interpreter: no two threads get the same
        while piece is None:
            data = os.urandom(8 * _FETCHED)
            self._pieces = iter([data[start : start + 8] for start in range(0, len(data), 8)])
            piece = next(self._pieces, None)
        return piece

    def _drop(self) -> None:
        self._pieces = iter(())


_randomness = _Randomness()


def new_id(now: datetime) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) for `now`: 48 bits of Unix milliseconds, 12 of their fraction, 62 random ones.

    The fraction (section 6.2, method 3) lets ids sort by time within a millisecond too: the newest feedback counts.
    """
    milliseconds, fraction = divmod(round(now.timestamp() * 1_000_000), 1000)
    random = int.from_bytes(_randomness.take(), "big")
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76
    value |= ((fraction << 12) // 1000) << 64
    value |= 0b10 << 62
    value |= random & ((1 << 62) - 1)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def first_id_at(moment: float) -> str:
    """What no id made at that moment (Unix seconds) or later sorts before, and every earlier one does."""
    digits = f"{max(0, int(moment * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:12]}"


def parse_id(text: str, field: str = "inference_id") -> str:
    """The bare id out of what a client holds: with or without what vLLM puts before it (`chatcmpl-`, `resp_` …).

    Raises `BadFieldError` for anything that is not a UUIDv7.
    """
    bare = text
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    try:
        parsed = uuid.UUID(bare)
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != 7 or str(parsed) != bare.lower():
        raise BadFieldError(
            field, f"{text[:60]!r} is not an inference id; send the value of x-starloop-inference-id"
        )
    return str(parsed)


def first_id(moment: float) -> str:
    """The least id of the millisecond in which a moment (Unix seconds) lies, for comparison with others."""
    milliseconds = min(max(0, math.floor(moment * 1000)), (1 << 48) - 1)
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def time_of(identifier: str) -> datetime:
    """The moment at which a UUIDv7 was made, in UTC, to the millisecond; the last one that there is for any later."""
    try:
        return datetime.fromtimestamp((uuid.UUID(identifier).int >> 80) / 1000, UTC)
    except (OverflowError, ValueError):  # 48 bits reach beyond the year 9999
        return datetime.max.replace(tzinfo=UTC)
