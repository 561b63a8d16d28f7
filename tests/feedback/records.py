"""Records for the tests of the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from feedback.ids import new_id
from feedback.storage.records import FeedbackRecord, InferenceRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def inference(seconds: float = 0.0, **fields: Any) -> InferenceRecord:
    """A plausible inference, `seconds` after `NOW`."""
    moment = NOW + timedelta(seconds=seconds)
    plain: dict[str, Any] = {
        "id": new_id(moment),
        "created": moment.timestamp(),
        "model": "assistant",
        "version": "base",
        "status": 200,
        "latency_ms": 12.5,
        "finish_reason": "stop",
        "request": '{"model":"assistant","messages":[{"role":"user","content":"Where is my parcel?"}]}',
        "response": '{"choices":[{"message":{"role":"assistant","content":"{}"}}]}',
        "prompt": "Where is my parcel?",
        "output": "{}",
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "first_token_ms": 4.25,
        "metadata": {"channel": "mail"},
    }
    return InferenceRecord(**(plain | fields))


def feedback(inference_id: str, seconds: float = 1.0, **fields: Any) -> FeedbackRecord:
    """A rating of one inference by one rater."""
    moment = NOW + timedelta(seconds=seconds)
    plain: dict[str, Any] = {
        "id": new_id(moment),
        "inference_id": inference_id,
        "created": moment.timestamp(),
        "rater": "ann",
        "rating": 2,
    }
    return FeedbackRecord(**(plain | fields))
