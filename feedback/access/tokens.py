"""Feedback tokens: what lets a user's browser say something about one inference, and nothing else.

A token is `<payload>.<signature>`, both base64url; the payload holds the expiry and the user, the inference id is only
signed, as it comes with the feedback anyway.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import struct
from datetime import datetime
from pathlib import Path

from feedback.access.secret_file import read_or_create
from feedback.errors import NotAllowedError

TOKEN_KEY = "token.key"
_DAY_SECONDS = 86_400
_HEADER = struct.Struct(">QB")  # expiry in Unix seconds; 1 when a user follows


class FeedbackTokens:
    """Issues and checks tokens with one secret; all gateways over one data directory share it."""

    def __init__(self, secret: str, lifetime_days: int) -> None:
        # Copied for each token: `hmac.digest` lets go of the interpreter's lock, and getting it back costs a busy
        # gateway many times what the sum does.
        self._mac = hmac.new(secret.encode("ascii"), digestmod="sha256")
        self._lifetime = lifetime_days * _DAY_SECONDS

    def issue(self, inference_id: str, user: str | None, now: datetime) -> str:
        """A token that says: until it expires, its bearer is `user` for this inference."""
        expiry = int(now.timestamp()) + self._lifetime
        payload = _HEADER.pack(expiry, user is not None) + (user or "").encode("utf-8", "replace")
        return f"{_text(payload)}.{_text(self._sign(inference_id, payload))}"

    def check(self, token: str, inference_id: str, now: datetime) -> str | None:
        """The user that the token names, or None when the inference had none.

        Raises `NotAllowedError` when it is forged, expired or of another inference.
        """
        try:
            payload, signature = (_bytes(part) for part in token.split("."))
        except (ValueError, binascii.Error):
            raise NotAllowedError(
                "the feedback token is not one; send x-starloop-feedback-token as it came"
            ) from None
        if not hmac.compare_digest(signature, self._sign(inference_id, payload)):
            raise NotAllowedError("the feedback token does not belong to this inference")
        expiry, named = _HEADER.unpack_from(payload)
        if now.timestamp() >= expiry:
            raise NotAllowedError("the feedback token has expired; send the feedback with an API key")
        return payload[_HEADER.size :].decode("utf-8") if named else None

    def _sign(self, inference_id: str, payload: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(inference_id.encode("utf-8", "replace") + b"\0" + payload)
        return mac.digest()


def open_tokens(directory: Path, lifetime_days: int) -> FeedbackTokens:
    """Tokens under the data directory's secret, which the first process to ask makes (mode 600)."""
    return FeedbackTokens(read_or_create(directory / TOKEN_KEY, secrets.token_urlsafe(32)), lifetime_days)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
