"""Whether a request truly comes from this machine, by a person or program on it: plain functions over its head.

An address of 127.0.0.1 alone proves little: a reverse proxy on this machine has it too, and so has a web page that a
browser here shows. So a forwarding header, a foreign `Host` (DNS rebinding) and a foreign `Origin` (a page) all count
as from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

_FORWARDING = frozenset(
    (
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"client-ip",
        b"true-client-ip",
        b"x-cluster-client-ip",
    )
)
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
_FORWARDING_PREFIXES = (b"x-forwarded-", b"x-original-", b"cf-", b"x-envoy-")


def is_local(peer: str | None, headers: Mapping[bytes, bytes]) -> bool:
    """True when nothing in the request's head speaks against its coming from this machine itself.

    `headers` has lower-case names, as ASGI gives them.
    """
    if peer is None or not _is_loopback(peer):
        return False
    if any(name in _FORWARDING or name.startswith(_FORWARDING_PREFIXES) for name in headers):
        return False
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if not _names_loopback(host):
        return False
    return b"origin" not in headers or is_own_origin(headers)


def is_own_origin(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page of the very host it called sent the request."""
    host = headers.get(b"host", b"").lower()
    return bool(host) and headers.get(b"origin", b"").lower() in (b"http://" + host, b"https://" + host)


@lru_cache(1024)
def _is_loopback(address: str) -> bool:
    try:
        parsed = ip_address(address.strip("[]"))
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


@lru_cache(1024)
def _names_loopback(host: str) -> bool:
    """Whether a `Host` header (`localhost:8000`, `127.0.0.1`, `[::1]:8000`) names this machine."""
    found = _HOST.fullmatch(host)
    return found is not None and (found[1] == "localhost" or _is_loopback(found[1]))
