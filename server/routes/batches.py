"""`/v1/batches…`: a file of requests, answered beside the users' traffic, in the form of OpenAI's API."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from feedback.batches.kept import NewBatch, begin_batch, cancel_batch, get_batch, list_batches
from server.access import viewer_of
from server.body import checked_metadata
from server.openai_views import BatchObject, ObjectPage, batch_object, object_page
from server.request import SCOPES, STRICT, GatewayRequest, Parts
from server.wire import CreateBatch

_INFER = {SCOPES: ("infer",), STRICT: True}
_Page = Annotated[int, QueryParameter(ge=1, le=100)]


@post("/v1/batches", status_code=200, opt=_INFER, sync_to_thread=True)
def create(data: JSONBody[CreateBatch], request: GatewayRequest, gateway: Parts) -> BatchObject:
    """Have the requests in a file of purpose `batch` answered, with this key, as long as the engine has time for them."""
    metadata = None if data.metadata is None else checked_metadata(data.metadata)
    asked = NewBatch(endpoint=data.endpoint, input_file_id=data.input_file_id, metadata=metadata)
    caller = request.user
    with gateway.database.session() as session:
        row = begin_batch(session, asked, viewer_of(caller), caller.actor, gateway.now())
        session.commit()
        return batch_object(row)


@get("/v1/batches", opt=_INFER, sync_to_thread=True)
def batches(
    request: GatewayRequest, gateway: Parts, limit: _Page = 20, after: FromQuery[str | None] = None
) -> ObjectPage[BatchObject]:
    """The caller's batches, newest first; an admin sees everybody's."""
    with gateway.database.reading() as session:
        rows, more = list_batches(session, viewer_of(request.user), limit, after)
        return object_page([batch_object(row) for row in rows], more)


@get("/v1/batches/{batch_id:str}", opt=_INFER, sync_to_thread=True)
def one(batch_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> BatchObject:
    """One of them."""
    with gateway.database.reading() as session:
        return batch_object(get_batch(session, batch_id, viewer_of(request.user)))


@post("/v1/batches/{batch_id:str}/cancel", status_code=200, opt=_INFER, sync_to_thread=True)
def cancel(batch_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> BatchObject:
    """Begin none of its requests any more; what was answered till then stands in its output file."""
    caller = request.user
    with gateway.database.session() as session:
        row = cancel_batch(session, batch_id, viewer_of(caller), caller.actor, gateway.now())
        session.commit()
        session.refresh(row)
        return batch_object(row)


ROUTES = [create, batches, one, cancel]
