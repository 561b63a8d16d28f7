"""Sessions of the pages: a key is shown once, and a signed cookie speaks for it from then on.

The cookie holds the key's id and an expiry, never the key. It is good only while its key is: who checks it looks the key up
as well, so that revoking the key ends all its sessions. Nothing is stored, so signing out only takes the cookie away.
"""

from __future__ import annotations

import hmac
import re
import secrets
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from feedback.access.secret_file import read_or_create

SESSION_KEY = "session.key"
_PAYLOAD = struct.Struct(">Q16s16s")  # expiry in Unix seconds, the key's id, 128 random bits
_FORM = re.compile(r"([0-9a-f]{80})\.([0-9a-f]{64})", re.ASCII)


class Ticket(NamedTuple):
    """A session as its cookie tells it, once the signature was found to be true."""

    key_id: str
    expires: datetime
    guard: str
    """What requests that change something must repeat in a header: a page of another site cannot read it."""


class Sessions:
    """Issues and checks cookies with one secret; all gateways over one data directory share it."""

    def __init__(self, secret: str, hours: float) -> None:
        self._secret = secret.encode("ascii")
        self._lifetime = timedelta(hours=hours)

    def begin(self, key_id: str, key_expires: float | None, now: datetime) -> tuple[str, Ticket]:
        """The cookie of a new session, which ends before its key does."""
        ends = (now + self._lifetime).timestamp()
        expiry = int(ends if key_expires is None else min(ends, key_expires))
        payload = _PAYLOAD.pack(expiry, UUID(key_id).bytes, secrets.token_bytes(16))
        return f"{payload.hex()}.{self._sign(b'session', payload)}", self._ticket(payload)

    def read(self, cookie: str, now: datetime) -> Ticket | None:
        """What a cookie says; None when it is forged or has expired."""
        found = _FORM.fullmatch(cookie)
        if found is None:
            return None
        payload = bytes.fromhex(found[1])
        if not hmac.compare_digest(found[2], self._sign(b"session", payload)):
            return None
        ticket = self._ticket(payload)
        return ticket if now < ticket.expires else None

    def _ticket(self, payload: bytes) -> Ticket:
        expiry, key, _ = _PAYLOAD.unpack(payload)
        return Ticket(
            str(UUID(bytes=key)), datetime.fromtimestamp(expiry, UTC), self._sign(b"guard", payload)
        )

    def _sign(self, purpose: bytes, payload: bytes) -> str:
        return hmac.digest(self._secret, purpose + b"\0" + payload, "sha256").hex()


def open_sessions(directory: Path, hours: float) -> Sessions:
    """Sessions under the data directory's secret, which the first process to ask makes (mode 600)."""
    return Sessions(read_or_create(directory / SESSION_KEY, secrets.token_urlsafe(32)), hours)
