"""`/v1/files…` and `/v1/uploads…`: files kept under an id, in the form of OpenAI's API."""

from __future__ import annotations

import asyncio
from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import File

from feedback.errors import BadFieldError, StorageError
from feedback.files.lines import check_lines
from feedback.files.parts import (
    PART_LIMIT,
    NewUpload,
    add_part,
    begin_upload,
    cancel_upload,
    complete_upload,
    pending_upload,
    sweep_uploads,
)
from feedback.files.stored import (
    FOLDER,
    LINED,
    PREFIX,
    Listing,
    Order,
    add_file,
    checked_purpose,
    delete_file,
    get_file,
    list_files,
    path_of,
)
from feedback.imports.uploads import Upload
from server.access import viewer_of
from server.form import receive_form
from server.gateway import Gateway
from server.openai_views import (
    Deleted,
    FileObject,
    ObjectPage,
    PartObject,
    UploadObject,
    file_object,
    object_page,
    part_object,
    upload_object,
)
from server.openapi import FileOperation, PartOperation
from server.request import SCOPES, STRICT, GatewayRequest, Parts
from server.wire import BeginUpload, CompleteUpload

_TRAIN = {SCOPES: ("train",), STRICT: True}
_Page = Annotated[int, QueryParameter(ge=1, le=10_000)]


@post("/v1/files", status_code=200, opt=_TRAIN, request_max_body_size=None, operation_class=FileOperation)
async def send(request: GatewayRequest, gateway: Parts) -> FileObject:
    """Keep a file: a form with `file` and `purpose` (fine-tune, batch, evals, user_data).

    All but user_data must hold a JSON object in each line; 400 names the first line that does not.
    """
    settings, now = gateway.settings, gateway.now()
    await asyncio.to_thread(sweep_uploads, gateway.database, settings.directory, now)
    with await asyncio.to_thread(
        Upload, settings.directory, settings.server.upload_limit, now, FOLDER
    ) as upload:
        form = await receive_form(request, upload, "file", {"purpose"})
        if "purpose" not in form.fields:
            raise BadFieldError("purpose", "is required")
        purpose = checked_purpose(form.fields["purpose"])
        name = form.filename or "file"
        if not upload.size:
            raise BadFieldError("file", "is empty")
        if purpose in LINED:
            await asyncio.to_thread(check_lines, upload.path, name)
        row = await asyncio.to_thread(
            add_file,
            gateway.database,
            settings.directory,
            upload,
            name,
            purpose,
            request.user.actor,
            now,
        )
    return file_object(row)


@get("/v1/files", opt=_TRAIN, sync_to_thread=True)
def files(
    request: GatewayRequest,
    gateway: Parts,
    purpose: FromQuery[str | None] = None,
    order: FromQuery[Order] = "desc",
    limit: _Page = 10_000,
    after: FromQuery[str | None] = None,
) -> ObjectPage[FileObject]:
    """The caller's files, newest first unless `order` is asc; an admin sees everybody's."""
    with gateway.database.reading() as session:
        rows, more = list_files(session, viewer_of(request.user), Listing(purpose, order, limit, after))
    return object_page([file_object(row) for row in rows], more)


@get("/v1/files/{file_id:str}", opt=_TRAIN, sync_to_thread=True)
def one(file_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> FileObject:
    """One of them."""
    with gateway.database.reading() as session:
        return file_object(get_file(session, file_id, viewer_of(request.user)))


@get("/v1/files/{file_id:str}/content", opt=_TRAIN, sync_to_thread=True)
def content(file_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> File:
    """Its bytes, as they were sent."""
    return bytes_of(file_id, request, gateway)


@delete("/v1/files/{file_id:str}", status_code=200, opt=_TRAIN, sync_to_thread=True)
def remove(file_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> Deleted:
    """Delete it for good; what was trained on it stays."""
    caller = request.user
    done = delete_file(
        gateway.database,
        gateway.settings.directory,
        file_id,
        viewer_of(caller),
        caller.actor,
        gateway.now(),
    )
    return Deleted(id=PREFIX + done, object="file")


@post("/v1/uploads", status_code=200, opt=_TRAIN, sync_to_thread=True)
def begin(data: JSONBody[BeginUpload], request: GatewayRequest, gateway: Parts) -> UploadObject:
    """Begin a file that is sent in parts; it is forgotten after an hour."""
    settings, now = gateway.settings, gateway.now()
    sweep_uploads(gateway.database, settings.directory, now)
    asked = NewUpload(name=data.filename, purpose=data.purpose, bytes=data.bytes)
    limit = settings.server.upload_limit
    return upload_object(
        begin_upload(gateway.database, settings.directory, asked, limit, request.user.actor, now)
    )


@post(
    "/v1/uploads/{upload_id:str}/parts",
    status_code=200,
    opt=_TRAIN,
    request_max_body_size=None,
    operation_class=PartOperation,
)
async def part(upload_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> PartObject:
    """Send a part, as a form with `data`: at most 64 MB; parts may come beside each other."""
    caller, directory, now = request.user, gateway.settings.directory, gateway.now()
    viewer = viewer_of(caller)

    def look() -> None:
        with gateway.database.reading() as session:
            pending_upload(session, upload_id, viewer, now)

    await asyncio.to_thread(look)  # before the bytes come
    with await asyncio.to_thread(Upload, directory, PART_LIMIT, now, FOLDER) as upload:
        await receive_form(request, upload, "data", frozenset())
        row = await asyncio.to_thread(
            add_part, gateway.database, directory, upload_id, upload, viewer, caller.actor, now
        )
    return part_object(row, now.timestamp())


@post("/v1/uploads/{upload_id:str}/complete", status_code=200, opt=_TRAIN, sync_to_thread=True)
def complete(
    upload_id: FromPath[str], data: JSONBody[CompleteUpload], request: GatewayRequest, gateway: Parts
) -> UploadObject:
    """Put the parts together in the order of `part_ids`; the answer's `file` is the file."""
    caller = request.user
    row, kept = complete_upload(
        gateway.database,
        gateway.settings.directory,
        upload_id,
        data.part_ids,
        data.md5,
        viewer_of(caller),
        caller.actor,
        gateway.now(),
    )
    return upload_object(row, kept)


@post("/v1/uploads/{upload_id:str}/cancel", status_code=200, opt=_TRAIN, sync_to_thread=True)
def cancel(upload_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> UploadObject:
    """Give it up; its parts are deleted."""
    caller = request.user
    row = cancel_upload(
        gateway.database,
        gateway.settings.directory,
        upload_id,
        viewer_of(caller),
        caller.actor,
        gateway.now(),
    )
    return upload_object(row)


def bytes_of(file_id: str, request: GatewayRequest, gateway: Gateway) -> File:
    """The answer that is a file of the caller's. Raises `NotFoundError`, and `StorageError` where the bytes are gone."""
    with gateway.database.reading() as session:
        row = get_file(session, file_id, viewer_of(request.user))
    path = path_of(gateway.settings.directory, row.id)
    if not path.is_file():
        raise StorageError(f"the bytes of {file_id} are gone from the data directory; bring back a backup")
    return File(path, filename=row.name, media_type="application/octet-stream")


ROUTES = [send, files, one, content, remove, begin, part, complete, cancel]
