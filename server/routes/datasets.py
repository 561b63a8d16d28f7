"""`/v1/datasets…`: frozen dataset versions, their manifests and their rows."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.params import FromPath, FromQuery
from litestar.response import Stream
from sqlmodel import Session

from feedback.datasets.exports import Format, check_export, exported
from feedback.datasets.listing import dataset_of, list_datasets
from feedback.datasets.why import why_example
from feedback.errors import NotFoundError
from feedback.storage.tables import DatasetVersion
from server.access import Caller
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier, listed_model
from server.views import DatasetView, Listed, WhyView, listed, view

_READ = {SCOPES: ("review", "train")}
_REVIEW = {SCOPES: ("review",)}


@get("/v1/datasets", opt=_READ, sync_to_thread=True)
def datasets(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[DatasetView]:
    """Dataset versions, newest first."""
    with gateway.database.reading() as session:
        wanted = listed_model(request.user, session, model)
        return listed(list_datasets(session, wanted, limit, cursor), lambda row: view(DatasetView, row))


@get("/v1/datasets/{dataset_id:str}", opt=_READ, sync_to_thread=True)
def dataset(dataset_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> DatasetView:
    """One dataset version with its manifest."""
    with gateway.database.reading() as session:
        return view(DatasetView, _row(session, dataset_id, request.user))


@get("/v1/datasets/{dataset_id:str}/export", opt=_READ, sync_to_thread=True)
def export(
    dataset_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    format: FromQuery[Format] = "chat",  # the contract's word
    split: FromQuery[Literal["train", "validation"] | None] = None,
) -> Stream:
    """The rows as JSONL: `chat` is OpenAI's fine-tuning form, `trl-completion`, `trl-preference` and `kto` are TRL's, `rows`
    is all that is known of each, `holdout` the failures that are kept apart."""
    with gateway.database.reading() as session:
        row = _row(session, dataset_id, request.user)
    directory = gateway.settings.directory
    check_export(directory, row.id, format)
    rows = exported(directory, row.id, format, split)
    lines = (msgspec.json.encode(one) + b"\n" for one in rows)
    return Stream(lines, media_type="application/jsonl", headers=_attached(row, format))


@get("/v1/datasets/{dataset_id:str}/examples/{example_id:str}/why", opt=_REVIEW, sync_to_thread=True)
def why(
    dataset_id: FromPath[str], example_id: FromPath[str], request: GatewayRequest, gateway: Parts
) -> WhyView:
    """Each rule and figure that let an example in, by its hash or position, as they were when it was frozen."""
    with gateway.database.reading() as session:
        row = _row(session, dataset_id, request.user)
        return WhyView(**why_example(session, gateway.settings.directory, row, example_id))


def _row(session: Session, dataset_id: str, caller: Caller) -> DatasetVersion:
    row = dataset_of(session, identifier(dataset_id, "a dataset"))
    if not caller.reaches(row.model):
        raise NotFoundError(f"there is no dataset {dataset_id[:60]}; GET /v1/datasets lists those there are")
    return row


def _attached(row: DatasetVersion, form: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{row.model}-{row.id}-{form}.jsonl"'}


ROUTES = [datasets, dataset, export, why]
