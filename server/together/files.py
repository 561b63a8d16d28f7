"""`/together/v1/files…`: files kept under an id, in the form of Together's API.

A file is announced first; the answer is the address, with a ticket in it, to which its bytes are then put without a key,
as to a store beside the API. They come to the same place as OpenAI's files.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

from litestar import Response, delete, get, post, put
from litestar.params import FromPath, FromQuery
from litestar.response import File

from feedback.errors import BadFieldError
from feedback.files.lines import check_lines
from feedback.files.stored import (
    FOLDER,
    LINED,
    PREFIX,
    Listing,
    add_file,
    bare_id,
    delete_file,
    get_file,
    list_files,
)
from feedback.files.tickets import SECONDS, Announced
from feedback.ids import new_id
from feedback.imports.uploads import Upload
from server.access import caller_by_id, viewer_of
from server.form import receive_body, receive_fields
from server.gateway import Gateway
from server.openapi import AnnouncedFileOperation, BytesOperation
from server.request import OPEN, SCOPES, STRICT, GatewayRequest, Parts
from server.routes.files import bytes_of
from server.together.views import PURPOSES, DeletedFile, FileObject, Listed, file_object

_TRAIN = {SCOPES: ("train",), STRICT: True}
_OPEN = {SCOPES: OPEN}
_TYPES = ("jsonl", "parquet", "csv")
_FIELDS = frozenset({"purpose", "file_name", "file_type", "checksum"})
_HASH = re.compile(r"[0-9a-f]{64}")


@post("/together/v1/files", status_code=302, opt=_TRAIN, operation_class=AnnouncedFileOperation)
async def announce(request: GatewayRequest, gateway: Parts) -> Response[None]:
    """Announce a file: a form with `purpose`, `file_name`, `file_type` and perhaps `checksum` (SHA-256, hex).

    302 with the address to put its bytes to as `Location`, good for an hour, and its id as `X-Together-File-Id`.
    """
    fields = await receive_fields(request, _FIELDS)
    for name in ("purpose", "file_name", "file_type"):
        if not fields.get(name):
            raise BadFieldError(name, "is required")
    purpose, kind, checksum = fields["purpose"], fields["file_type"], fields.get("checksum", "").lower()
    if purpose not in PURPOSES:
        raise BadFieldError("purpose", f"{purpose[:60]!r} is none of {', '.join(PURPOSES)}")
    if kind not in _TYPES:
        raise BadFieldError("file_type", f"{kind[:60]!r} is none of {', '.join(_TYPES)}")
    if checksum and not _HASH.fullmatch(checksum):
        raise BadFieldError("checksum", "is no SHA-256 in hexadecimal digits")
    name = fields["file_name"][:255]
    if not name.lower().endswith(f".{kind}"):
        raise BadFieldError("file_name", f"does not end in .{kind}, which file_type says it is")
    actor, now = request.user.actor, gateway.now()
    announced = Announced(
        new_id(now),
        name,
        PURPOSES[purpose],
        checksum,
        actor.name,
        actor.key_id,
        int(now.timestamp()) + SECONDS,
    )
    identifier = PREFIX + announced.id
    ticket = quote(gateway.tickets.issue(announced))
    address = f"{_own_address(request)}/together/v1/files/{identifier}/bytes?ticket={ticket}"
    return Response(None, status_code=302, headers={"location": address, "x-together-file-id": identifier})


@put(
    "/together/v1/files/{file_id:str}/bytes",
    status_code=200,
    opt=_OPEN,
    request_max_body_size=None,
    operation_class=BytesOperation,
)
async def send(
    file_id: FromPath[str], request: GatewayRequest, gateway: Parts, ticket: FromQuery[str | None] = None
) -> FileObject:
    """The bytes of an announced file, once; who has its ticket needs no key.

    Lines of JSONL must be JSON objects; 400 names the first that is not.
    """
    if ticket is None:
        raise BadFieldError("ticket", "is required; send the file to the address that was told")
    settings, now = gateway.settings, gateway.now()
    announced = gateway.tickets.read(ticket, bare_id(file_id, PREFIX, "file"), now)
    caller_by_id(announced.key_id, gateway.live.current, now).need("train")
    limit = settings.server.upload_limit
    with await asyncio.to_thread(Upload, settings.directory, limit, now, FOLDER) as upload:
        await receive_body(request, upload)
        if not upload.size:
            raise BadFieldError("file", "is empty")
        if announced.hash and upload.hash != announced.hash:
            raise BadFieldError(
                "checksum", f"does not agree: what came has {upload.hash}; send the file again"
            )
        if announced.purpose in LINED and announced.name.lower().endswith(".jsonl"):
            await asyncio.to_thread(check_lines, upload.path, announced.name)
        row = await asyncio.to_thread(
            add_file,
            gateway.database,
            settings.directory,
            upload,
            announced.name,
            announced.purpose,
            announced.actor,
            now,
            announced.id,
        )
    return file_object(row)


@post("/together/v1/files/{file_id:str}/preprocess", status_code=200, opt=_TRAIN, sync_to_thread=True)
def processed(file_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> FileObject:
    """What clients call after the bytes: the file as it is now. It was looked at as it came."""
    return _one(file_id, request, gateway)


@get("/together/v1/files", opt=_TRAIN, sync_to_thread=True)
def files(request: GatewayRequest, gateway: Parts) -> Listed:
    """The caller's newest 10,000 files, newest first; an admin's are everybody's."""
    with gateway.database.reading() as session:
        rows, _ = list_files(session, viewer_of(request.user), Listing())
    return Listed(data=[file_object(row) for row in rows])


@get("/together/v1/files/{file_id:str}", opt=_TRAIN, sync_to_thread=True)
def one(file_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> FileObject:
    """One of them."""
    return _one(file_id, request, gateway)


@get("/together/v1/files/{file_id:str}/content", opt=_TRAIN, sync_to_thread=True)
def content(file_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> File:
    """Its bytes, as they were sent."""
    return bytes_of(file_id, request, gateway)


@delete("/together/v1/files/{file_id:str}", status_code=200, opt=_TRAIN, sync_to_thread=True)
def remove(file_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> DeletedFile:
    """Delete it for good; what was trained on it stays."""
    caller, directory, now = request.user, gateway.settings.directory, gateway.now()
    done = delete_file(gateway.database, directory, file_id, viewer_of(caller), caller.actor, now)
    return DeletedFile(id=PREFIX + done)


def _one(file_id: str, request: GatewayRequest, gateway: Gateway) -> FileObject:
    with gateway.database.reading() as session:
        return file_object(get_file(session, file_id, viewer_of(request.user)))


def _own_address(request: GatewayRequest) -> str:
    """Where the client reached this; a proxy in front says by `X-Forwarded-Proto` whether that was https."""
    scheme = request.headers.get("x-forwarded-proto", request.scope["scheme"]).partition(",")[0].strip()
    return f"{'https' if scheme == 'https' else 'http'}://{request.headers.get('host', 'localhost')}"


ROUTES = [announce, send, processed, files, one, content, remove]
