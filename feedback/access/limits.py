"""What a key may use in a minute, and at once: the numbers alone. Counting is the gateway's business."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from feedback.errors import BadFieldError

_LARGEST = 10**12


class Limits(Struct, frozen=True, omit_defaults=True):
    """A key's limits; None is no limit of that kind."""

    rpm: int | None = None
    """Requests in a minute."""
    tpm: int | None = None
    """Tokens in a minute, prompts and answers together."""
    concurrent: int | None = None
    """Completions under way at one time."""


LIMITS = Limits.__struct_fields__


def parse_limits(text: str) -> Limits | None:
    """Limits written as `rpm=600,tpm=100000,concurrent=8`; None for an empty text. Raises `BadFieldError`."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (one.strip() for one in part.partition("="))
        if name not in LIMITS:
            raise BadFieldError("limits", f"there is no limit {name[:40]!r}; there are {', '.join(LIMITS)}")
        if name in found:
            raise BadFieldError("limits", f"{name} is given twice")
        if not (number.isascii() and number.isdigit() and 1 <= int(number[:20]) <= _LARGEST):
            raise BadFieldError("limits", f"{part[:60]!r} has no whole number above 0; write {name}=600")
        found[name] = int(number)
    return Limits(**found) if found else None


def stored_limits(limits: Limits | None) -> dict[str, int] | None:
    """Limits as a key's row has them."""
    stored: dict[str, int] | None = msgspec.to_builtins(limits)
    return stored


def read_limits(stored: dict[str, int] | None) -> Limits | None:
    """Limits out of a key's row."""
    return None if stored is None else Limits(**stored)


def shown_limits(stored: dict[str, int] | None) -> str | None:
    """Limits as `parse_limits` takes them."""
    return None if stored is None else ",".join(f"{name}={number}" for name, number in stored.items())
