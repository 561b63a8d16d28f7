"""`/pages/events`: server-sent events for a page that shows something that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, get_args
from urllib.parse import urlencode

from litestar import get
from litestar.params import FromQuery
from litestar.response import Stream
from sqlmodel import Session

from feedback.errors import BadFieldError, StarloopError
from feedback.registry.cycles import get_cycle
from feedback.registry.models import get_model
from feedback.reports.pulse import Kind, Topic, pulse_of
from server.gateway import Gateway
from server.request import COUNTED, SCOPES, GatewayRequest, Parts, caller_of, identifier

# A browser opens it again and again by itself: that is not what a key's limits are for.
_PAGES = {SCOPES: ("review", "train"), COUNTED: True}
_NEEDED: dict[str, Sequence[str]] = {
    "cycle": ("train",),
    "cycles": ("train",),
    "overview": ("review", "train"),
    "review": ("review",),
}
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}


class Live(NamedTuple):
    """What a page needs to keep itself up to date."""

    address: str
    mark: str


def live(kind: Kind, of: str, mark: str) -> Live:
    """For a page with this mark: a change after it is told by the stream's first event."""
    return Live("/pages/events?" + urlencode({"about": kind, "of": of}), mark)


def live_now(session: Session, gateway: Gateway, kind: Kind, of: str) -> Live:
    """As `live`, for a page made from this view of the database."""
    return live(kind, of, pulse_of(session, Topic(kind, of), gateway.now()).mark)


@get("/pages/events", opt=_PAGES, include_in_schema=False)
async def page_events(
    request: GatewayRequest, gateway: Parts, about: FromQuery[str] = "", of: FromQuery[str] = ""
) -> Stream:
    """Events whose data is `{"mark", "facts"}`, the first at once; with another mark, the page shows something old."""
    if about not in get_args(Kind):
        raise BadFieldError("about", f"{about[:20]!r} is none of {', '.join(get_args(Kind))}")
    request.user.need(*_NEEDED[about])
    topic = Topic(about, identifier(of, "a cycle") if about == "cycle" else of)  # type: ignore[arg-type]
    model = await _model_of(gateway, topic)
    request.user.need_model(model)
    who = request.user.key_id or "local"
    gateway.updates.need_room(who)

    def may() -> bool:
        try:
            caller = caller_of(request)
        except StarloopError:
            return False
        return caller.key_id == request.user.key_id and caller.may(*_NEEDED[about]) and caller.reaches(model)

    return Stream(gateway.updates.listen(topic, who, may), media_type="text/event-stream", headers=_HEADERS)


async def _model_of(gateway: Gateway, topic: Topic) -> str:
    """Raises `NotFoundError`."""

    def look() -> str:
        with gateway.database.reading() as session:
            if topic.kind == "cycle":
                return get_cycle(session, topic.of).model
            return get_model(session, topic.of).name

    return await asyncio.to_thread(look)


ROUTES = [page_events]
