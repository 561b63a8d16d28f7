"""Pages: their templates, the headers that keep them to themselves, and who looks at them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Request, Response
from markupsafe import Markup, escape

from feedback.errors import (
    BadInputError,
    NoKeyError,
    NotAllowedError,
    NotFoundError,
    StarloopError,
    UnavailableError,
)
from server.access import Caller, bearer
from server.gateway import Gateway
from server.request import GatewayRequest, caller_of
from server.static_files import address_of

GUARDED = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_CODE = re.compile("`([^`]+)`")


def moment(when: float | str | datetime) -> Markup:
    """A time in UTC, which `every.js` tells in the reader's zone. A number is Unix seconds, a text ISO 8601."""
    instant = _instant(when)
    return Markup('<time datetime="{}">{}</time>').format(instant.isoformat(), moment_text(when))


def moment_text(when: float | str | datetime) -> str:
    """The same where no element may stand."""
    return f"{_instant(when):%Y-%m-%d %H:%M} UTC"


def _instant(when: float | str | datetime) -> datetime:
    if isinstance(when, int | float):
        return datetime.fromtimestamp(when, UTC)
    read = datetime.fromisoformat(when) if isinstance(when, str) else when
    return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)


def code(text: str) -> Markup:
    """A sentence in which what stands between backticks is code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def pretty(value: Any) -> str:
    """A JSON value to read, as it is: unlike Jinja's `tojson`, which is for scripts, it escapes nothing itself."""
    return json.dumps(value, indent=2, ensure_ascii=False)


_templates = Environment(
    loader=PackageLoader("server", "pages/templates"), autoescape=True, undefined=StrictUndefined
)
_templates.filters |= {
    "moment": moment,
    "moment_text": moment_text,
    "code": code,
    "pretty": pretty,
    "kept": address_of,
}


class Visitor(NamedTuple):
    """Who looks at a page: by session, or somebody at this machine while there are no keys."""

    caller: Caller | None
    """None for a stranger, who is asked to sign in."""
    lock: str | None
    """Why, in words."""
    trouble: str | None
    """What keeps the page from being shown just now."""
    owner: str = ""
    """Whose session it is, also where its key does not open this page; empty where there is none to sign out of."""

    def models(self, gateway: Gateway) -> list[str]:
        """The models that this visitor may look at."""
        caller = self.caller
        return [] if caller is None else sorted(m for m in gateway.live.current.models if caller.reaches(m))


def visitor_of(request: GatewayRequest, *scopes: str) -> Visitor:
    """Who asks for a page; a key without any of the scopes is a stranger there."""
    try:
        caller = caller_of(request)
    except NoKeyError as error:
        return Visitor(None, str(error), None)
    except UnavailableError as error:
        return Visitor(None, None, str(error))
    owner = _session_owner(request, caller)
    if scopes and not caller.may(*scopes):
        return Visitor(None, f"this page is for keys with the scope {' or '.join(scopes)}", None, owner)
    return Visitor(caller, None, None, owner)


def _owner_of(request: Request[Any, Any, Any]) -> str:
    """Whose session an address that is no page was asked for in; empty where there is none."""
    try:
        caller = caller_of(request)
    except StarloopError:
        return ""
    return _session_owner(request, caller)


def _session_owner(request: Request[Any, Any, Any], caller: Caller) -> str:
    by_key = bearer(dict(request.scope["headers"])) is not None
    return "" if by_key or caller.key_id is None else caller.owner


def page(template: str, owner: str, status: int = 200, **facts: Any) -> Response[str]:
    """A page under the strict policy, in the session of `owner` if there is one. All values are shown as text."""
    text = _templates.get_template(template).render(owner=owner, **facts)
    return Response(text, media_type="text/html", headers=GUARDED, status_code=status)


def refused(request: Request[Any, Any, Any], answer: Response[bytes]) -> Response[str] | None:
    """An error as a page, for who looks with a browser at something that is no part of the API; None for all others."""
    asks, path = request.headers.get("accept", ""), request.scope["path"]
    if request.method != "GET" or "text/html" not in asks or path.startswith(("/v1/", "/together/")):
        return None
    status = answer.status_code or 500
    if status == 404:
        title, told = (
            "There is no such page",
            "Those there are stand above; what the API has stands at `/schema`.",
        )
    else:
        title, told = "This page cannot be shown", json.loads(answer.content)["error"]["message"]
    return page("refused.html", _owner_of(request), status, title=title, told=told)


def model_page(
    template: str,
    request: GatewayRequest,
    gateway: Gateway,
    model: str,
    scopes: Sequence[str],
    nothing: dict[str, Any],
    make: Callable[[Caller, str], dict[str, Any]],
    **facts: Any,
) -> Response[str]:
    """The page of one of the visitor's models, the first where none is named, with what `make` finds about it."""
    visitor = visitor_of(request, *scopes)
    names = visitor.models(gateway)
    chosen = model or (names[0] if names else "")

    def shown() -> dict[str, Any]:
        assert visitor.caller is not None
        visitor.caller.need_model(chosen)
        return make(visitor.caller, chosen)

    return shown_page(template, visitor, nothing, shown, models=names, chosen=chosen, **facts)


def shown_page(
    template: str, visitor: Visitor, nothing: dict[str, Any], make: Callable[[], dict[str, Any]], **facts: Any
) -> Response[str]:
    """The page with what `make` finds; with why there is nothing, where the visitor may not look or it cannot be found."""
    status, problem, found = 200, visitor.trouble, nothing
    if visitor.caller is not None and facts.get("chosen") == "":
        problem = "this key is for no model that is served here"
    elif visitor.caller is not None:
        try:
            found = make()
        except NotFoundError as error:
            status, problem = 404, str(error)
        except NotAllowedError as error:
            status, problem = 403, str(error)
        except BadInputError as error:
            status, problem = 400, str(error)
        except UnavailableError as error:
            status, problem = 503, str(error)
        except StarloopError as error:
            status, problem = 500, str(error)
    return page(template, visitor.owner, status, lock=visitor.lock, trouble=problem, **facts, **found)
