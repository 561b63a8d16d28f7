"""`/`: the page to start from. Made here, with its own style and script, and nothing from any other host."""

from __future__ import annotations

from typing import NamedTuple

from litestar import Response, get
from litestar.params import FromPath, FromQuery

from feedback.errors import NotFoundError, UnavailableError
from feedback.registry.versions import order_of
from feedback.storage.inferences import InferenceFilter, search
from server.access import Caller
from server.gateway import Gateway
from server.rendering import GUARDED, page, visitor_of
from server.request import OPEN, SCOPES, GatewayRequest, Parts
from server.routes.inferences import with_ratings
from server.routing import BASE
from server.static_files import STATIC, answer_with
from server.views import InferenceLine

_RECENT = 20
_YEAR = 365 * 86_400
_OPEN = {SCOPES: OPEN}


@get("/", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def chat(request: GatewayRequest, gateway: Parts) -> Response[str]:
    """Talk to the served model, see which version answered, rate and correct it."""
    visitor = visitor_of(request)
    recent: list[InferenceLine] = []
    trouble = visitor.trouble
    if visitor.caller is not None:
        try:
            recent = _recent(gateway, visitor.caller)
        except UnavailableError as error:
            trouble = str(error)
    return page(
        "chat.html",
        visitor.owner,
        lock=visitor.lock,
        trouble=trouble,
        models=[_offered(gateway, name) for name in visitor.models(gateway)],
        recent=recent,
        hours=gateway.settings.server.session_hours,
    )


@get("/static/{name:str}", opt=_OPEN, include_in_schema=False)
async def static(name: FromPath[str], request: GatewayRequest, v: FromQuery[str] = "") -> Response[bytes]:
    """The pages' own style and script; `v` is the tag of the content that a page wants."""
    file = STATIC.get(name)
    if file is None:
        raise NotFoundError("there is no such file")
    # While a new release takes over, another worker may answer than the one that made the page.
    life = f"private, max-age={_YEAR}, immutable" if v == file.tag else "no-cache"
    return answer_with(request, file, {**GUARDED, "cache-control": life})


class _Offered(NamedTuple):
    """A model that can be talked to, with the versions that may be named, newest first."""

    name: str
    champion: str
    versions: list[str]


def _offered(gateway: Gateway, name: str) -> _Offered:
    route = gateway.live.current.models[name]
    numbers = sorted(route.versions, key=order_of, reverse=True)
    return _Offered(name, route.champion or BASE, [*numbers, BASE])


def _recent(gateway: Gateway, caller: Caller) -> list[InferenceLine]:
    """What the caller may see of what was asked lately; as in the API, one key for several models must name one."""
    if not caller.may("infer", "review") or (caller.models is not None and len(caller.models) != 1):
        return []
    own = None if caller.may("review") else caller.key_id
    wanted = InferenceFilter(model=caller.narrowed(None), purpose="production", key_id=own)
    with gateway.database.reading() as session:
        found = search(session, wanted, _RECENT, None)
        return with_ratings(session, found.items, None).items


ROUTES = [chat, static]
