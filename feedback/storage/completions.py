"""OpenAI's stored chat completions: the inferences that were asked with `store: true`, read where they stand.

Nothing is kept a second time. What may change, the metadata, is laid over the record in a table of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from msgspec import Struct
from sqlmodel import Session, and_, col, or_, select

from feedback.storage.completion_table import CompletionMetadata
from feedback.storage.inferences import of_model
from feedback.storage.paging import id_after
from feedback.storage.tables import Inference

PREFIX = "chatcmpl-"


class Reader(NamedTuple):
    """Who reads: with which key, of which models (None is all), and whether they may see everybody's."""

    key_id: str | None
    models: Collection[str] | None
    everything: bool

    def sees(self, row: Inference) -> bool:
        return (self.everything or row.key_id == self.key_id) and (
            self.models is None or row.model in self.models
        )


class Wanted(Struct, frozen=True, kw_only=True):
    """Which stored completions, and where the page begins and ends."""

    model: str | None = None
    """A registered name, or `name@version`."""
    metadata: dict[str, str] = {}
    order: Literal["asc", "desc"] = "asc"
    limit: int = 20
    after: str | None = None


class Stored(NamedTuple):
    """A stored completion, with its metadata as it is now."""

    row: Inference
    metadata: Mapping[str, str]


def get_completion(session: Session, identifier: str, reader: Reader) -> Stored | None:
    """The stored completion with this bare id; None also for one of somebody else's, and for one that was not to be stored."""
    row = session.get(Inference, identifier)
    if row is None or not row.listed or not reader.sees(row):
        return None
    changed = session.get(CompletionMetadata, identifier)
    return Stored(row, (row.metadata_ or {}) if changed is None else changed.metadata_)


def list_completions(session: Session, reader: Reader, wanted: Wanted) -> tuple[list[Stored], bool]:
    """A page of stored completions by age, and whether there are more. Raises `BadFieldError` for an `after` that is no id."""
    changed = CompletionMetadata
    identifier = col(Inference.id)
    query = (
        select(Inference, changed)
        .outerjoin(changed, col(changed.inference_id) == identifier)
        .where(col(Inference.listed))
    )
    if not reader.everything:
        query = query.where(col(Inference.key_id).is_not_distinct_from(reader.key_id))
    if reader.models is not None:
        query = query.where(
            col(Inference.model).concat("").in_(sorted(reader.models))
        )  # as `of_model` has it
    if wanted.model is not None:
        name, _, version = wanted.model.partition("@")
        query = query.where(of_model(name))
        if version:
            query = query.where(col(Inference.version).concat("") == version)
    for key, value in wanted.metadata.items():
        query = query.where(
            or_(
                col(changed.metadata_)[key].as_string() == value,
                and_(col(changed.inference_id).is_(None), col(Inference.metadata_)[key].as_string() == value),
            )
        )
    if wanted.after is not None:
        last = id_after(wanted.after, PREFIX, "a completion")
        query = query.where(identifier > last if wanted.order == "asc" else identifier < last)
    ordered = query.order_by(identifier if wanted.order == "asc" else identifier.desc())
    found = [
        Stored(row, (row.metadata_ or {}) if over is None else over.metadata_)
        for row, over in session.exec(ordered.limit(wanted.limit + 1))
    ]
    return found[: wanted.limit], len(found) > wanted.limit


def change_metadata(session: Session, identifier: str, metadata: Mapping[str, str], now: float) -> None:
    """Lay metadata over a stored completion's; the caller commits."""
    session.merge(CompletionMetadata(inference_id=identifier, metadata_=dict(metadata), changed=now))
