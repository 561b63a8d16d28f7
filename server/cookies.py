"""The pages' cookies: the session's, what a request must show beside it before it may change something, the reader's zone.

A cookie is sent by the browser whoever made it send: so a change also needs a value that only our own pages can read, and
an `Origin` that is ours. A request with a bearer key needs neither, as no browser adds that by itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo

from litestar.datastructures import Cookie

from feedback.access.sessions import Ticket
from feedback.errors import NotAllowedError
from feedback.reports.zones import zone_named
from server.loopback import is_own_origin

SESSION, GUARD, ZONE = "starloop-session", "starloop-csrf", "starloop-zone"
GUARD_HEADER = "x-starloop-csrf"
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))


def session_cookie(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The session's cookie out of a request's head, or None."""
    return _cookie(headers, SESSION)


def zone_of(headers: Iterable[tuple[bytes, bytes]]) -> tzinfo:
    """The zone in which a page's reader counts days, as the page's script says; UTC before that, and for one not known."""
    return zone_named(_cookie(headers, ZONE) or "")


def _cookie(headers: Iterable[tuple[bytes, bytes]], name: str) -> str | None:
    for field, value in headers:
        if field == b"cookie":
            for part in value.decode("latin-1").split(";"):
                given, _, content = part.strip().partition("=")
                if given == name:
                    return content
    return None


def check_change(method: str, headers: Mapping[bytes, bytes], ticket: Ticket) -> None:
    """Raises `NotAllowedError` unless the request changes nothing, or comes from a page of ours."""
    if method in _SAFE:
        return
    given = headers.get(GUARD_HEADER.encode("ascii"), b"")
    if not hmac.compare_digest(given, ticket.guard.encode("ascii")):
        raise NotAllowedError(
            f"with a session, what changes something needs the header {GUARD_HEADER}: the value of the cookie {GUARD}"
        )
    if not is_own_origin(headers):
        raise NotAllowedError(
            "with a session, what changes something needs an Origin that is this server's; a proxy must pass Host on"
        )


def cookies_of(cookie: str, ticket: Ticket, now: datetime, secure: bool) -> list[Cookie]:
    """The cookies that begin a session: one that scripts cannot read, and one that they must."""
    seconds = int((ticket.expires - now).total_seconds())
    return [
        Cookie(SESSION, value=cookie, httponly=True, samesite="strict", secure=secure, max_age=seconds),
        Cookie(GUARD, value=ticket.guard, samesite="strict", secure=secure, max_age=seconds),
    ]


def cookies_gone() -> list[Cookie]:
    """The cookies that end one."""
    return [
        Cookie(SESSION, value="", httponly=True, samesite="strict", max_age=0),
        Cookie(GUARD, value="", samesite="strict", max_age=0),
    ]
