"""Content hashes: the same for the same content, whatever way it took."""

from __future__ import annotations

import msgspec
import pytest

from feedback.storage.hashing import content_hash
from feedback.storage.records import decode, encode
from tests.feedback.records import feedback, inference


def test_the_hash_outlives_the_journal() -> None:
    record = inference(0, metadata={"b": "1", "a": "2"})
    assert content_hash(decode(encode(record))) == content_hash(record)


def test_the_order_of_metadata_does_not_matter() -> None:
    record = inference(0, metadata={"b": "1", "a": "2"})
    other = msgspec.structs.replace(record, metadata={"a": "2", "b": "1"})
    assert content_hash(record) == content_hash(other)


def test_a_value_that_equals_the_default_is_the_default() -> None:
    record = inference(0)
    other = msgspec.structs.replace(
        record, purpose="".join(["produc", "tion"]), metadata=dict(record.metadata or {})
    )
    assert content_hash(record) == content_hash(other)


def test_fields_that_are_added_later_leave_older_hashes_true() -> None:
    """A stored hash, so that a change of the form of hashing cannot pass unseen."""
    record = feedback(
        "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f", id="0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e30", created=1.5
    )
    assert content_hash(record) == "c9802bd250e5119506d2c9656b178a8c002d1a3065c47575f35c8d1f672c7784"


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(inference())])
def test_every_field_of_an_inference_counts(field: str) -> None:
    record = inference(0)
    value = getattr(record, field)
    other = (
        not value
        if isinstance(value, bool)
        else {"k": "v"}
        if isinstance(value, dict)
        else "x"
        if value is None or isinstance(value, str)
        else value + 1
    )
    assert content_hash(msgspec.structs.replace(record, **{field: other})) != content_hash(record)
