"""Takes personal data out of what is about to be stored or trained on.

Documents that came as JSON are read, redacted string by string and written again, also those that are strings of others, so
that an address which hides behind an escape goes too; a document in which nothing was found stays the text that came. Who said it (`user`, `rater`,
`conversation`) is left alone: it is what erasure and the sides of a dataset go by.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from feedback.privacy.pii import Placeholders, secret_under
from feedback.storage.records import FeedbackRecord, InferenceRecord, Record

_CARDS = 10**11
"""No number of a card is smaller."""
R = TypeVar("R", bound=InferenceRecord | FeedbackRecord)


def without_pii(record: R) -> R:
    """The record with placeholders in the place of personal data; the same object where there is none."""
    together = Placeholders()
    changed: dict[str, Any] = {}
    for name in _texts(record):
        value = getattr(record, name)
        clean = value if value is None else in_text(value, together)
        if clean is not value:
            changed[name] = clean
    for name in ("metadata", "tags"):
        value = getattr(record, name, None)
        if value and (clean := in_document(value, together)) != value:
            changed[name] = clean
    return msgspec.structs.replace(record, **changed) if changed else record


def in_document(value: Any, together: Placeholders) -> Any:
    """A JSON document with its strings redacted, keys too, and numbers that are long enough for a card's."""
    if isinstance(value, str):
        # An image's bytes as text: there is nothing to read in it, and it may be megabytes.
        return value if value.startswith("data:") and ";base64," in value[:100] else in_text(value, together)
    if isinstance(value, int) and _CARDS <= value < 100 * _CARDS**2:
        written = str(value)
        clean = together.put(written)
        return value if clean == written else clean
    if isinstance(value, list):
        return [in_document(item, together) for item in value]
    if isinstance(value, dict):
        return {together.put(key): _under(key, item, together) for key, item in value.items()}
    return value


def _under(key: str, item: Any, together: Placeholders) -> Any:
    if isinstance(item, str) and secret_under(key, item):
        return together.mark("secret", item)
    return in_document(item, together)


def _texts(record: Record) -> Sequence[str]:
    """In the order in which they were written, so that the question's placeholders go on in the answer."""
    if isinstance(record, InferenceRecord):
        return ("request", "prompt", "response", "output", "error")
    return ("comment", "correction")


def in_text(text: str, together: Placeholders) -> str:
    """A text, or a JSON document as text (the arguments of calls are), with the same placeholders in both."""
    if text.lstrip()[:1] not in ("{", "["):
        return together.put(text)
    repeated = False

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        made = dict(found)
        repeated = repeated or len(made) < len(found)
        return made

    try:
        document = json.loads(text, object_pairs_hook=pairs)
        clean = in_document(document, together)
        # Of a key that stands twice, the first value was not looked at: it must not stay behind in the text.
        return json.dumps(clean, ensure_ascii=False) if repeated or clean != document else text
    except (ValueError, RecursionError):
        return together.put(text)
