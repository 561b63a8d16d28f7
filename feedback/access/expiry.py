"""When a key ends by itself: said as a time from now or as a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from feedback.errors import BadFieldError

_LENGTHS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def parse_expiry(text: str, now: datetime) -> datetime:
    """`90d`, `12h`, `4w`, or an ISO date or time, UTC unless it says otherwise; a date is its first moment.

    Raises `BadFieldError` for what is neither, or is past.
    """
    length = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text, re.ASCII)
    try:
        if length is not None:
            return now + int(length[1]) * _LENGTHS[length[2]]
        parsed = datetime.fromisoformat(text)
        moment = parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadFieldError(
            "expires", f"{text[:40]!r} is no time; write for example 90d, 12h or 2030-01-31"
        ) from None
    if moment <= now:
        raise BadFieldError("expires", f"{text} is past; the key could never be used")
    return moment
