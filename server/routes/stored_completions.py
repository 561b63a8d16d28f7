"""`/v1/chat/completions` as OpenAI's stored completions: what was asked with `store: true`, over what is captured anyway."""

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from feedback.errors import BadFieldError, NotFoundError
from feedback.files.stored import Order, bare_id
from feedback.ids import time_of
from feedback.privacy.completions import erase_inference
from feedback.privacy.pii import Placeholders
from feedback.privacy.redaction import in_document
from feedback.storage.completions import (
    PREFIX,
    Reader,
    Stored,
    Wanted,
    change_metadata,
    get_completion,
    list_completions,
)
from feedback.storage.inferences import get_inference
from server.access import Caller
from server.body import checked_metadata
from server.gateway import Gateway
from server.openai_views import Deleted, ObjectPage, object_page
from server.request import SCOPES, STRICT, GatewayRequest, Parts, metadata_filter
from server.wire import ChangeCompletion

_FILTERED = {SCOPES: ("infer", "review")}
_READ = _FILTERED | {STRICT: True}
_PAUSE, _TRIES, _YOUNG = 0.05, 30, 5.0
"""One that was captured seconds ago is waited for: it is on its way to the database."""
_Page = Annotated[int, QueryParameter(ge=1, le=100)]


def reader_of(caller: Caller) -> Reader:
    """With the review scope everybody's, else those made with the same key; of the key's models."""
    return Reader(caller.key_id, caller.models, caller.may("review"))


def owner_of(caller: Caller) -> Reader:
    """Who may change them: of others' an admin alone, also where `review` reads them."""
    return Reader(caller.key_id, caller.models, caller.may())


@get("/v1/chat/completions", opt=_FILTERED, sync_to_thread=True)
def stored_completions(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    order: FromQuery[Order] = "asc",
    limit: _Page = 20,
    after: FromQuery[str | None] = None,
) -> ObjectPage[dict[str, Any]]:
    """Stored completions, oldest first unless `order` is desc; `metadata[KEY]=value` asks for OpenAI metadata."""
    metadata = metadata_filter(request, {"model", "order", "limit", "after"})
    wanted = Wanted(model=model, metadata=metadata, order=order, limit=limit, after=after)
    with gateway.database.reading() as session:
        found, more = list_completions(session, reader_of(request.user), wanted)
    return object_page([completion_object(one) for one in found], more, itemgetter("id"))


@get("/v1/chat/completions/{completion_id:str}", opt=_READ)
async def stored_completion(
    completion_id: FromPath[str], request: GatewayRequest, gateway: Parts
) -> dict[str, Any]:
    """One of them. What was answered a moment ago is waited for until it has come to the database."""
    return completion_object(await _find(gateway, completion_id, reader_of(request.user)))


@get("/v1/chat/completions/{completion_id:str}/messages", opt=_READ)
async def stored_messages(
    completion_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    order: FromQuery[Order] = "asc",
    limit: _Page = 20,
    after: FromQuery[str | None] = None,
) -> ObjectPage[dict[str, Any]]:
    """The messages that were sent for it, each under `<completion's id>-<place>`."""
    found = await _find(gateway, completion_id, reader_of(request.user))
    messages = [
        _message(f"{PREFIX}{found.row.id}-{place}", message)
        for place, message in enumerate(_sent(found.row.request))
    ]
    if order == "desc":
        messages.reverse()
    if after is not None:
        place = next((place for place, one in enumerate(messages) if one["id"] == after), None)
        if place is None:
            raise BadFieldError("after", f"{after[:80]!r} is not the id of one of its messages")
        messages = messages[place + 1 :]
    return object_page(messages[:limit], len(messages) > limit, itemgetter("id"))


@post("/v1/chat/completions/{completion_id:str}", status_code=200, opt={SCOPES: ("infer",), STRICT: True})
async def change(
    completion_id: FromPath[str], data: JSONBody[ChangeCompletion], request: GatewayRequest, gateway: Parts
) -> dict[str, Any]:
    """Give it other metadata. The record stays as it was captured, with the metadata it came with."""
    metadata = checked_metadata(data.metadata or {})
    if gateway.settings.capture.pii == "redact":
        metadata = in_document(metadata, Placeholders())
    found = await _find(gateway, completion_id, owner_of(request.user))

    def write() -> None:
        with gateway.database.session() as session:
            change_metadata(session, found.row.id, metadata, gateway.now().timestamp())
            session.commit()

    await asyncio.to_thread(write)
    return completion_object(Stored(found.row, metadata))


@delete("/v1/chat/completions/{completion_id:str}", status_code=200, opt={SCOPES: ("admin",), STRICT: True})
async def remove(completion_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> Deleted:
    """Erase it for good, with its feedback and the examples made of it; versions trained on it stay."""
    caller = request.user
    found = await _find(gateway, completion_id, reader_of(caller))
    await asyncio.to_thread(
        erase_inference, gateway.database, gateway.settings, found.row.id, caller.actor, gateway.now()
    )
    return Deleted(id=PREFIX + found.row.id, object="chat.completion.deleted")


def completion_object(stored: Stored) -> dict[str, Any]:
    """The answer as it was given, with the metadata of now."""
    row = stored.row
    try:
        answer = msgspec.json.decode(row.response or "{}")
    except msgspec.DecodeError:
        answer = {}
    if not isinstance(answer, dict) or not answer.get("choices"):
        message = {"role": "assistant", "content": row.output, "refusal": None}
        choice = {"index": 0, "finish_reason": row.finish_reason or "stop", "logprobs": None}
        answer = {"choices": [{**choice, "message": message}], "model": f"{row.model}@{row.version}"}
    known = {"id": PREFIX + row.id, "object": "chat.completion"}
    return {"created": int(row.created), **answer, **known, "metadata": dict(stored.metadata)}


def _message(identifier: str, message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "id": identifier, "content": content, "content_parts": None}
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
    text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return {**message, "id": identifier, "content": text or None, "content_parts": parts}


def _sent(request: str | None) -> list[dict[str, Any]]:
    try:
        messages = msgspec.json.decode(request or "{}").get("messages")
    except msgspec.DecodeError:
        return []
    return [one for one in messages or () if isinstance(one, dict)]


async def _find(gateway: Gateway, completion_id: str, reader: Reader) -> Stored:
    """The caller's stored completion, waited for as long as it may be on its way.

    Raises `NotFoundError`, also for one of somebody else's and one that was not asked with `store: true`.
    """
    identifier = bare_id(completion_id, PREFIX, "completion")
    age = gateway.now().timestamp() - time_of(identifier).timestamp()

    def look() -> tuple[Stored | None, bool]:
        with gateway.database.reading() as session:
            found = get_completion(session, identifier, reader)
            return found, get_inference(session, identifier) is not None

    tries = _TRIES if gateway.capture.recent(identifier) or 0 <= age < _YOUNG else 1
    found, here = await asyncio.to_thread(look)
    for _ in range(tries - 1):
        if here:
            break
        await asyncio.sleep(_PAUSE)
        found, here = await asyncio.to_thread(look)
    if found is None:
        raise NotFoundError(
            f"there is no stored completion {completion_id[:60]!r} of this key"
            + ("" if here or tries == 1 else "; if it was just made, ask again in a moment")
            + "; GET /v1/chat/completions lists those asked with `store: true`"
        )
    return found


ROUTES = [stored_completions, stored_completion, stored_messages, change, remove]
