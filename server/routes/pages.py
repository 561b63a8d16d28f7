"""`/`: the page to start from. Made here, with its own style and script, and nothing from any other host."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Response, get
from litestar.params import FromPath

from feedback.errors import NoKeyError, NotFoundError, UnavailableError
from feedback.storage.inferences import InferenceFilter, search
from server.access import Caller
from server.gateway import Gateway
from server.request import OPEN, SCOPES, GatewayRequest, Parts, caller_of
from server.routes.inferences import with_ratings
from server.views import InferenceLine

_RECENT = 20
_OPEN = {SCOPES: OPEN}
_GUARDED = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_templates = Environment(
    loader=PackageLoader("server", "pages/templates"), autoescape=True, undefined=StrictUndefined
)
_static = {
    file.name: (file.read_bytes(), _TYPES[file.name.rpartition(".")[2]])
    for file in files("server").joinpath("pages/static").iterdir()
}


@get("/", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def chat(request: GatewayRequest, gateway: Parts) -> Response[str]:
    """Talk to the served model, see which version answered, rate and correct it."""
    lock: str | None = None
    recent: list[InferenceLine] = []
    trouble: str | None = None
    names: list[str] = []
    signed_in = False
    try:
        caller = caller_of(request)  # by session, or somebody at this machine while there are no keys
        names = sorted(name for name in gateway.live.current.models if caller.reaches(name))
        recent = _recent(gateway, caller)
        signed_in = caller.key_id is not None
    except NoKeyError as error:
        lock = str(error)
    except UnavailableError as error:
        trouble = str(error)
    facts = {"hours": gateway.settings.server.session_hours, "signed_in": signed_in}
    return _page("chat.html", lock=lock, trouble=trouble, models=names, recent=recent, **facts)


@get("/static/{name:str}", opt=_OPEN, include_in_schema=False)
async def static(name: FromPath[str]) -> Response[bytes]:
    """The page's own style and script."""
    if name not in _static:
        raise NotFoundError("there is no such file")
    content, kind = _static[name]
    return Response(content, media_type=kind, headers={**_GUARDED, "cache-control": "no-cache"})


def _page(template: str, **facts: Any) -> Response[str]:
    text = _templates.get_template(template).render(**facts)
    return Response(text, media_type="text/html", headers=_GUARDED)


def _recent(gateway: Gateway, caller: Caller) -> list[InferenceLine]:
    """What the caller may see of what was asked lately; as in the API, one key for several models must name one."""
    if not caller.may("infer", "review") or (caller.models is not None and len(caller.models) != 1):
        return []
    own = None if caller.may("review") else caller.key_id
    wanted = InferenceFilter(model=caller.narrowed(None), purpose="production", key_id=own)
    with gateway.database.reading() as session:
        page = search(session, wanted, _RECENT, None)
        return with_ratings(session, page.items, None).items


ROUTES = [chat, static]
