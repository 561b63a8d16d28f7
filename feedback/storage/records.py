"""What the journal holds: one record for each row that will stand in the database.

The fields are those of the tables, less what is computed on the way (`content_hash`, `current`). A record that was
encoded here can be stored by either database: text that neither can hold is replaced before it is acknowledged.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct


class InferenceRecord(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag="inference", tag_field="kind"
):
    """One logged call; the fields are explained at `tables.Inference`."""

    id: str
    created: float
    model: str
    version: str
    status: int
    latency_ms: float
    purpose: str = "production"
    user: str | None = None
    conversation: str | None = None
    key_id: str | None = None
    streamed: bool = False
    error: str | None = None
    finish_reason: str | None = None
    request: str | None = None
    response: str | None = None
    prompt: str | None = None
    output: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_ms: float | None = None
    metadata: dict[str, Any] | None = None
    stored: bool = True
    pinned: bool = False
    listed: bool = False


class FeedbackRecord(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="feedback", tag_field="kind"):
    """One signal about an inference; the fields are explained at `tables.Feedback`."""

    id: str
    inference_id: str
    created: float
    rater: str
    source: str = "user"
    rating: int | None = None
    comment: str | None = None
    correction: str | None = None
    choice: int = 0
    tags: list[str] | None = None
    preferred_over: str | None = None
    assumed: bool = False
    """Nobody named the rater, and the inference was not there to say who its user is; settled when both are stored."""


Record = InferenceRecord | FeedbackRecord

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(InferenceRecord | FeedbackRecord)


def encode(record: Record) -> bytes:
    """The record as JSON; NUL and lone surrogates in its texts become U+FFFD, as PostgreSQL takes neither."""
    try:
        body = _encoder.encode(record)
    except UnicodeEncodeError:
        return _encoder.encode(_storable(record))
    return body if b"\\u0000" not in body else _encoder.encode(_storable(record))


def decode(body: bytes) -> Record:
    """The record that `encode` wrote. Raises `msgspec.DecodeError` (`ValidationError` is one) for anything else."""
    return _decoder.decode(body)


def _storable(record: Record) -> Record:
    return type(record)(**{name: _clean(value) for name, value in msgspec.structs.asdict(record).items()})


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_STORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
