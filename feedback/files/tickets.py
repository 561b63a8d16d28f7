"""Upload tickets: what lets the bytes of one announced file be sent to an address, without a key, and nothing else.

A ticket is `<payload>.<signature>`, both base64url. It says all that is known of the file, so nothing is written down
before the bytes have come, and what never comes leaves nothing behind.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from feedback.access.audit import Actor
from feedback.access.secret_file import read_or_create
from feedback.access.tokens import TOKEN_KEY
from feedback.errors import NotAllowedError

SECONDS = 3600
_PURPOSE = b"upload\0"
"""Before what is signed, as feedback tokens are signed with the same secret."""


class Announced(Struct, frozen=True, array_like=True):
    """A file that is to come."""

    id: str
    name: str
    purpose: str
    hash: str
    """SHA-256 that its bytes must have; empty where the client told none."""
    owner: str
    key_id: str | None
    expires: int
    """Unix seconds."""

    @property
    def actor(self) -> Actor:
        """Who announced it."""
        return Actor(self.owner, self.key_id)


class UploadTickets:
    """Issues and checks tickets with one secret; all gateways over one data directory share it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("ascii")
        self._decoder = msgspec.json.Decoder(Announced)

    def issue(self, announced: Announced) -> str:
        """The ticket for a file."""
        payload = msgspec.json.encode(announced)
        return f"{_text(payload)}.{_text(self._sign(payload))}"

    def read(self, ticket: str, file_id: str, now: datetime) -> Announced:
        """The file that a ticket is for. Raises `NotAllowedError` when it is forged, expired or for another."""
        try:
            payload, signature = (_bytes(part) for part in ticket.split("."))
        except (ValueError, binascii.Error):
            raise NotAllowedError("the ticket is none; send the file to the address that was told") from None
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise NotAllowedError("the ticket is forged; send the file to the address that was told")
        announced = self._decoder.decode(payload)
        if announced.id != file_id:
            raise NotAllowedError(
                "the ticket is for another file; send the file to the address that was told"
            )
        if now.timestamp() >= announced.expires:
            raise NotAllowedError(f"the ticket was good for {SECONDS // 60} minutes; announce the file again")
        return announced

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, _PURPOSE + payload, "sha256")


def open_tickets(directory: Path) -> UploadTickets:
    """Tickets under the data directory's secret, which the first process to ask makes (mode 600)."""
    return UploadTickets(read_or_create(directory / TOKEN_KEY, secrets.token_urlsafe(32)))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
