"""`/widget.js`: stars for pages of other applications, and `/widget`, which shows them in use."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from server.errors import ANYWHERE
from server.rendering import shown_page, visitor_of
from server.request import OPEN, SCOPES, GatewayRequest, Parts
from server.static_files import STATIC, answer_with, static_file

_OPEN = {SCOPES: OPEN}
_HOUR = 3600
_HEADERS = {
    **ANYWHERE,
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "cache-control": f"public, max-age={_HOUR}",
}


def _squeezed(script: str) -> str:
    """A script without indentation, empty lines and lines that are comments; for one in which none of them means anything."""
    lines = (line.strip() for line in script.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//")) + "\n"


_SCRIPT = static_file(_squeezed(STATIC["widget.js"].content.decode()).encode(), "text/javascript")


@get("/widget.js", opt=_OPEN, include_in_schema=False)
async def script(request: GatewayRequest) -> Response[bytes]:
    """The element `<star-rating>`, for pages of any site."""
    return answer_with(request, _SCRIPT, _HEADERS)


@get("/widget", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def widget(request: GatewayRequest, gateway: Parts) -> Response[str]:
    """The stars under a real answer, and the lines that put them under others."""
    visitor = visitor_of(request)

    def shown() -> dict[str, Any]:
        return {"may_ask": visitor.caller is not None and visitor.caller.may("infer")}

    return shown_page("widget.html", visitor, {"may_ask": False}, shown, models=visitor.models(gateway))


ROUTES = [script, widget]
