"""Personal data in rows, by kind. The one place at which checks ask for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from feedback.privacy.pii import find


def count_personal(text: str) -> Counter[str]:
    """How often each kind of personal data stands in a text."""
    return Counter(span.kind for span in find(text))


def texts_in(value: Any) -> Iterator[str]:
    """Every text of a JSON value as it is meant: the arguments of calls are documents of their own."""
    if isinstance(value, dict):
        for one in value.values():
            yield from texts_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one)
    elif isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            yield from texts_in(json.loads(value))
        except (ValueError, RecursionError):
            yield value
    elif isinstance(value, str | int):
        yield str(value)
