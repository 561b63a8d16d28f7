"""Finding dataset versions in the record."""

from __future__ import annotations

from sqlmodel import Session, select

from feedback.errors import NotFoundError
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import DatasetVersion


def list_datasets(
    session: Session, model: str | None, limit: int, cursor: str | None
) -> Page[DatasetVersion]:
    """Dataset versions of one model, or of all, newest first."""
    query = select(DatasetVersion)
    if model is not None:
        query = query.where(DatasetVersion.model == model)
    return newest_first(session, query, DatasetVersion, limit, cursor)


def dataset_of(session: Session, identifier: str) -> DatasetVersion:
    """One dataset version. Raises `NotFoundError`."""
    row = session.get(DatasetVersion, identifier)
    if row is None:
        raise NotFoundError(f"there is no dataset {identifier[:60]}; GET /v1/datasets lists those there are")
    return row
