"""What clients are shown: rows of the record in the shape of the API. Times are ISO 8601 in UTC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from feedback.storage import tables
from feedback.storage.paging import Page
from feedback.storage.records import FeedbackRecord

T = TypeVar("T")
R = TypeVar("R")


class Listed(Struct, Generic[T]):
    """Every list; `next_cursor` goes into the query of the next page, and is null on the last."""

    items: list[T]
    next_cursor: str | None = None


class FeedbackView(Struct, kw_only=True):
    id: str
    inference_id: str
    created: datetime
    rater: str
    source: str
    rating: int | None
    comment: str | None
    correction: str | None
    choice: int
    tags: list[str] | None
    preferred_over: str | None
    current: bool


class InferenceLine(Struct, kw_only=True):
    """An inference in a list: all but the bodies."""

    id: str
    created: datetime
    model: str
    version: str
    purpose: str
    user: str | None
    conversation: str | None
    key_id: str | None
    streamed: bool
    status: int
    error: str | None
    finish_reason: str | None
    prompt: str | None
    output: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_ms: float
    first_token_ms: float | None
    metadata: dict[str, Any] | None
    stored: bool
    rating: int | None
    """The lowest of the raters' current ratings."""


class InferenceView(InferenceLine, kw_only=True):
    """An inference with its bodies and all that was said about it, history included."""

    request: Any
    response: Any
    feedback: list[FeedbackView]


class VersionView(Struct, kw_only=True):
    number: str
    name: str
    state: str
    champion: bool
    base: str
    base_revision: str
    dataset_id: str | None
    cycle_id: str | None
    adapter_hash: str
    note: str
    facts: dict[str, Any]
    created: datetime


class VersionsView(Struct, kw_only=True):
    """A model's versions, newest first. `champion` is `base` until a first version was promoted."""

    model: str
    champion: str
    items: list[VersionView]
    next_cursor: str | None = None


class MovedView(Struct, kw_only=True):
    model: str
    version: str
    previous: str
    move_id: str


class CanaryView(Struct, kw_only=True):
    """Two versions that answer different users. `result` holds the numbers of the last look, once there was one."""

    id: str
    model: str
    kind: str
    version: str
    against: str
    share: float
    state: str
    reason: str | None
    started_by: str
    cycle_id: str | None
    result: dict[str, Any]
    created: datetime
    limit: datetime
    ended: datetime | None


class RetiredView(Struct, kw_only=True):
    """A retired version; its files go as soon as no gateway and no engine needs them."""

    model: str
    version: str
    state: str
    removed: bool
    waits_for: str | None


class ModelCard(Struct, kw_only=True):
    """OpenAI's model object, with what Starloop knows beside it."""

    id: str
    object: str
    created: int
    owned_by: str
    base: str
    version: str


class ModelList(Struct, kw_only=True):
    object: str
    data: list[ModelCard]


class FailureView(Struct, kw_only=True):
    id: str
    inference_id: str
    model: str
    created: datetime
    reasons: list[dict[str, Any]]
    state: str
    correction: str | None
    resolved_by: str | None
    resolved: datetime | None
    waits: str | None
    """Why it taught nothing when a dataset version was last made, or whose word it waits for."""


class ResolvedView(FailureView, kw_only=True):
    also: list[str]
    """Cases like it with which the same was done, where that was asked for."""


class HoldView(Struct, kw_only=True):
    """What many new raters said about one target in a short time, held for a reviewer together."""

    id: str
    model: str
    created: datetime
    kind: str
    target: str
    reason: str
    state: str
    feedback: list[str]
    decided_by: str | None
    decided: datetime | None


class HoldContents(HoldView, kw_only=True):
    """A hold with all that waits in it."""

    said: list[FeedbackView]


class CandidateView(Struct, kw_only=True):
    """A correction that a model proposed for a failure case, with what it passed."""

    id: str
    model: str
    inference_id: str
    source: str
    origin: str
    answer: str
    checks: list[dict[str, Any]]
    state: str
    tokens: int
    cost: float
    created: datetime
    decided_by: str | None
    decided: datetime | None


class ImportView(Struct, kw_only=True):
    """A file of rows that was taken in."""

    id: str
    model: str
    name: str
    format: str
    columns: dict[str, str]
    use: str
    original_hash: str
    original_bytes: int
    content_hash: str
    rows: int
    examples: int
    bad: int
    created: datetime
    created_by: str


class BadRowView(Struct, kw_only=True):
    line: int
    field: str
    problem: str


class TakenView(Struct, kw_only=True):
    """What came of a file; `bad` names the first thousand rows that were left out."""

    imported: ImportView
    known: bool
    """The same rows were there already, as `imported`."""
    bad: list[BadRowView]


class CaseView(Struct, kw_only=True):
    id: str
    model: str
    suite: str
    state: str
    inference_id: str | None
    messages: list[dict[str, Any]]
    tools: list[Any] | None
    """What the answer may call: confirmed by calls as JSON, or by OpenAI's message with them."""
    answer: str | None
    version: str | None
    """Whose answer it is where it was praised (`base`, or a number); null for all other cases."""
    slice: str | None
    critical: bool
    created: datetime
    confirmed: datetime | None
    confirmed_by: str | None


class DatasetView(Struct, kw_only=True):
    id: str
    model: str
    parent_id: str | None
    content_hash: str
    created: datetime
    note: str
    manifest: dict[str, Any]


class WhyView(Struct, kw_only=True):
    """An example of a dataset version with what let it in; `told` has a sentence for each rule and figure of `why`."""

    dataset_id: str
    model: str
    position: int
    id: str
    split: str
    source: str
    new: bool
    weight: float
    group: str
    side: str
    inference_id: str | None
    feedback_id: str | None
    rater: str | None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    answer: str
    rules: int
    guards_off: list[str]
    why: dict[str, Any]
    told: list[str]


class CycleView(Struct, kw_only=True):
    id: str
    model: str
    mode: str
    state: str
    step: str | None
    decision: str | None
    reason: str | None
    guards_off: list[str]
    requested_by: str
    dataset_id: str | None
    version: str | None
    steps: list[dict[str, Any]]
    result: dict[str, Any] | None
    created: datetime
    updated: datetime


class TrainingStepView(Struct, kw_only=True):
    """One step of a training. Losses are means per answer token in nats; step 0 is the base as it came."""

    step: int
    steps: int
    epoch: int
    epochs: int
    created: datetime
    loss: float | None
    validation_loss: float | None
    validation_new: float | None
    validation_old: float | None
    learning_rate: float | None
    gradient_norm: float | None
    tokens_per_second: float | None
    memory_bytes: int | None
    noticed: list[str]


class AuditView(Struct, kw_only=True):
    id: str
    created: datetime
    actor: str
    key_id: str | None
    act: str
    subject: str
    details: dict[str, Any]


_TIMES = {"created", "updated", "confirmed", "resolved", "limit", "ended", "expires", "revoked"}


def view(kind: type[T], row: Any, **more: Any) -> T:
    """A row's fields as `kind` shows them; `more` gives those that the row has not, or has in another form."""
    values = dict(more)
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        if field.name not in values:
            value = getattr(row, field.name)
            values[field.name] = moment(value) if field.name in _TIMES else value
    return kind(**values)


def listed(page: Page[R], show: Callable[[R], T]) -> Listed[T]:
    """A page of rows as the list that clients get."""
    return Listed([show(row) for row in page.items], page.next_cursor)


def moment(seconds: float | None) -> datetime | None:
    """Unix seconds as a time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def show_inference_line(row: tables.Inference, rating: int | None) -> InferenceLine:
    return view(InferenceLine, row, metadata=row.metadata_, rating=rating)


def show_inference(row: tables.Inference, feedback: Sequence[tables.Feedback]) -> InferenceView:
    ratings = [one.rating for one in feedback if one.current and one.rating is not None]
    return view(
        InferenceView,
        row,
        metadata=row.metadata_,
        rating=min(ratings, default=None),
        request=_document(row.request),
        response=_document(row.response),
        feedback=[view(FeedbackView, one) for one in feedback],
    )


def show_new_feedback(record: FeedbackRecord) -> FeedbackView:
    """A feedback that was just taken; it is its rater's newest."""
    return view(FeedbackView, record, current=True)


def _document(text: str | None) -> Any:
    """A stored body as JSON, or as the text it is."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
