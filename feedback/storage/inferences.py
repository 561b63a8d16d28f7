"""Finding inferences and what was said about them."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct
from sqlalchemy import ColumnElement, Text, cast, exists
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from feedback.ids import first_id
from feedback.storage.paging import Page, id_of_cursor
from feedback.storage.tables import Failure, Feedback, Inference

LOOKED_AT = 20_000
"""Inferences that one page looks at: some 50 ms where each of them has to be read."""
T = TypeVar("T")


class InferenceFilter(Struct, frozen=True, kw_only=True):
    """What a search asks for; fields that are None ask for nothing, the rest must all hold."""

    model: str | None = None
    version: str | None = None
    rating_lte: int | None = None
    """Some rater's current rating is this or lower."""
    reason: str | None = None
    """Triage found it, for this reason among others."""
    user: str | None = None
    key_id: str | None = None
    """Made with this key: what a key with no more than the `infer` scope may see."""
    purpose: str | None = None
    metadata: dict[str, str] = {}
    since: float | None = None
    until: float | None = None
    """Unix seconds, `since` inclusive and `until` exclusive."""
    q: str | None = None
    """Text that stands in the prompt or the output, in upper or lower case."""


def get_inference(session: Session, identifier: str) -> Inference | None:
    """The inference with this bare id."""
    return session.get(Inference, identifier)


def feedback_of(session: Session, inference_id: str) -> list[Feedback]:
    """All feedback about an inference, history included, oldest first."""
    query = select(Feedback).where(Feedback.inference_id == inference_id).order_by(col(Feedback.id))
    return list(session.exec(query))


def search(
    session: Session, wanted: InferenceFilter, limit: int, cursor: str | None, looked_at: int = LOOKED_AT
) -> Page[Inference]:
    """Inferences that meet the filter, newest first; `cursor` is a page's `next_cursor`.

    However rare they are, a page takes no longer than looking at `looked_at` inferences does: it may hold fewer than
    `limit`, or none, and still have a `next_cursor`. Raises `BadFieldError` for a cursor that is not an id.
    """
    before = id_of_cursor(cursor) if cursor is not None else None
    query = _served_by_index(select(Inference), wanted, before)
    last = session.exec(
        _served_by_index(select(Inference.id), wanted, before)
        .order_by(col(Inference.id).desc())
        .offset(looked_at - 1)
        .limit(1)
    ).first()
    if last is not None:
        query = query.where(col(Inference.id) >= last)
    found = list(
        session.exec(_narrowed(query, wanted).order_by(col(Inference.id).desc()).limit(limit + 1)).all()
    )
    items = found[:limit]
    return Page(items, items[-1].id if len(found) > limit else last)


def _served_by_index(
    query: SelectOfScalar[T], wanted: InferenceFilter, before: str | None
) -> SelectOfScalar[T]:
    """What an index finds in the order of ids; the rest of a filter is looked at row by row."""
    if wanted.user is not None:
        query = query.where(Inference.user == wanted.user)
    elif wanted.model is not None and wanted.version is not None:
        query = query.where(Inference.model == wanted.model, Inference.version == wanted.version)
    if wanted.since is not None:
        query = query.where(col(Inference.id) >= first_id(wanted.since))
    if wanted.until is not None:
        query = query.where(col(Inference.id) < first_id(wanted.until + 0.001))
    return query if before is None else query.where(col(Inference.id) < before)


def has_reason(reason: str) -> ColumnElement[bool]:
    """Failure cases with this reason among theirs."""
    # The reasons are a JSON list; as text, a quotation mark inside any value is escaped, so only a key matches.
    return cast(Failure.reasons, Text).contains(f'"reason": "{reason}"', autoescape=True)


def of_model(model: str) -> ColumnElement[bool]:
    """Inferences of a model, in a query that goes by id, user or conversation.

    Written so that no index serves it: SQLite would take that on models, read all of a model's rows and sort them.
    """
    return col(Inference.model).concat("") == model


def _narrowed(query: SelectOfScalar[Inference], wanted: InferenceFilter) -> SelectOfScalar[Inference]:
    # Values that are computed keep the planner from an index whose order is not the page's: it would sort all it finds.
    for name in ("model", "version", "user", "key_id", "purpose"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(col(getattr(Inference, name)).concat("") == value)
    if wanted.since is not None:
        query = query.where(col(Inference.created) + 0 >= wanted.since)
    if wanted.until is not None:
        query = query.where(col(Inference.created) + 0 < wanted.until)
    if wanted.rating_lte is not None:
        query = query.where(
            exists().where(
                col(Feedback.inference_id) == col(Inference.id),
                col(Feedback.current),
                col(Feedback.rating) <= wanted.rating_lte,
            )
        )
    if wanted.reason is not None:
        query = query.where(
            exists().where(col(Failure.inference_id) == col(Inference.id), has_reason(wanted.reason))
        )
    for key, value in wanted.metadata.items():
        query = query.where(col(Inference.metadata_)[key].as_string() == value)
    if wanted.q is not None:
        query = query.where(
            or_(
                col(Inference.prompt).icontains(wanted.q, autoescape=True),
                col(Inference.output).icontains(wanted.q, autoescape=True),
            )
        )
    return query
