"""`/v1/imports…`: files of training rows, sent as they are and taken in as the command does it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from feedback.errors import BadFieldError, NotFoundError
from feedback.imports.reading import FORMATS, Reading
from feedback.imports.shapes import columns_of
from feedback.imports.storing import Use, page_of_imports
from feedback.imports.uploads import Taken, Taking, Upload, take_apart
from feedback.storage.tables import DataImport
from server.form import receive_body
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier, listed_model
from server.views import BadRowView, ImportView, Listed, TakenView, listed, moment, view

_TRAIN = {SCOPES: ("train",)}
_READ = {SCOPES: ("review", "train")}


@get("/v1/imports", opt=_READ, sync_to_thread=True)
def imports(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[ImportView]:
    """Files that were taken in, newest first."""
    with gateway.database.reading() as session:
        wanted = listed_model(request.user, session, model)
        page = page_of_imports(session, wanted, limit, cursor)
        return listed(page, lambda row: view(ImportView, row))


@get("/v1/imports/{import_id:str}", opt=_READ, sync_to_thread=True)
def one(import_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> ImportView:
    """One of them."""
    with gateway.database.reading() as session:
        row = session.get(DataImport, identifier(import_id, "an import"))
        if row is None or not request.user.reaches(row.model):
            raise NotFoundError(f"there is no import {import_id[:60]}; GET /v1/imports lists those there are")
        return view(ImportView, row)


@post("/v1/imports", status_code=201, opt=_TRAIN, request_max_body_size=None)
async def take(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str],
    name: FromQuery[str] = "file",
    format: FromQuery[str] = "",
    columns: Annotated[str, QueryParameter(name="map")] = "",
    use: FromQuery[Use] = "learn",
    skip_bad: FromQuery[bool] = False,
) -> Response[Any]:
    """Take the rows of a file in, the request's body as it is: OpenAI chats, instruction/output, prompt/completion or
    chosen/rejected as JSONL; CSV, Parquet; also packed by gzip or zstd. All rows or none, unless `skip_bad`.

    `map` names columns (`prompt=question,answer=reply`). 201 with the import; 200 where the same rows are there already; 400
    with the first thousand bad rows.
    """
    caller, settings = request.user, gateway.settings
    caller.need_model(model)
    if settings.model_named(model) is None:
        raise NotFoundError(f"there is no [[model]] named {model[:60]!r} in the configuration")
    if format and format not in FORMATS:
        raise BadFieldError("format", f"{format[:60]!r} is none of {', '.join(FORMATS)}")
    reading = Reading(format, columns_of(columns))
    with await asyncio.to_thread(
        Upload, settings.directory, settings.server.upload_limit, gateway.now()
    ) as upload:
        await receive_body(request, upload)
        taking = Taking(
            settings=settings,
            file=str(upload.path),
            name=name,
            model=model,
            reading=reading,
            use=use,
            skip_bad=skip_bad,
            actor=caller.actor.name,
            key_id=caller.actor.key_id,
        )
        taken = await asyncio.to_thread(take_apart, taking)
    if taken.entry is None:
        return Response(_refused(name, taken), status_code=400)
    values = taken.entry | {"created": moment(taken.entry["created"])}
    bad = [BadRowView(**row) for row in taken.bad]
    told = TakenView(imported=msgspec.convert(values, ImportView), known=taken.known, bad=bad)
    return Response(told, status_code=200 if taken.known else 201)


def _refused(name: str, taken: Taken) -> dict[str, Any]:
    first = taken.bad[0] if taken.bad else None
    where = "" if first is None else f"; line {first['line']}, {first['field']}: {first['problem']}"
    message = (
        f"{name[:100]}: {taken.bad_rows} bad and {taken.rows} good rows; nothing was imported. Mend them, or leave them out with "
        f"skip_bad=true{where}"
    )
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "bad_rows"}
    return {"error": error, "rows": taken.rows, "bad_rows": taken.bad_rows, "bad": taken.bad}


ROUTES = [imports, one, take]
