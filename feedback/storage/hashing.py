"""The hash that a stored row carries, so that `db verify` sees any later change of it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from feedback.storage.records import FeedbackRecord, InferenceRecord, Record

_encoder = msgspec.json.Encoder(order="deterministic")
_optional: dict[type[Any], dict[str, Any]] = {
    kind: {field.name: field.default for field in msgspec.structs.fields(kind) if not field.required}
    for kind in (InferenceRecord, FeedbackRecord)
}


def content_hash(record: Record) -> str:
    """SHA-256 (hex) over the record as JSON with sorted keys.

    Fields at their default are left out, so a column that is added later with a default leaves older hashes true.
    The record must have been through `decode`: a whole number in a float field is written differently before.
    """
    content = msgspec.structs.asdict(record)
    for name, default in _optional[type(record)].items():
        if content[name] == default:
            del content[name]
    return hashlib.sha256(_encoder.encode(content)).hexdigest()
