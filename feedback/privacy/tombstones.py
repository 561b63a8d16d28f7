"""Tombstones: what stays of an erased row, signed, so that its absence is proved and not only claimed.

The secret is the data directory's (`tombstone.key`, mode 600): who can write the database alone cannot make rows vanish
unseen. A tombstone holds ids, a hash and a time, and nothing that anybody wrote.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from sqlmodel import Session, col, select

from feedback.access.secret_file import read_or_create, read_secret
from feedback.storage.removal_tables import Tombstone

KEY = "tombstone.key"
TombstoneKind = Literal["inference", "feedback", "example"]


class Mason:
    """Makes tombstones and knows its own again."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("ascii")

    def carve(
        self, kind: TombstoneKind, identifier: str, content_hash: str, erased: float, erasure_id: str
    ) -> Tombstone:
        """The tombstone of one row; the caller adds it in the transaction that deletes the row."""
        return Tombstone(
            id=identifier,
            kind=kind,
            content_hash=content_hash,
            erased=erased,
            erasure_id=erasure_id,
            signature=self.sign("tombstone", kind, identifier, content_hash, repr(erased), erasure_id),
        )

    def is_true(self, stone: Tombstone) -> bool:
        """Whether it was made here and says what it said then."""
        said = (stone.kind, stone.id, stone.content_hash, repr(stone.erased), stone.erasure_id)
        return hmac.compare_digest(stone.signature, self.sign("tombstone", *said))

    def pseudonym(self, user: str) -> str:
        """What stands for a user who was erased: recognised when named again, and nobody's name."""
        return self.sign("user", user)

    def sign(self, *parts: str) -> str:
        """HMAC-SHA256 (hex) over parts, none of which can pass for a piece of another."""
        message = b"".join(
            b"%d:" % len(data) + data for data in (p.encode("utf-8", "replace") for p in parts)
        )
        return hmac.digest(self._secret, message, "sha256").hex()


def open_mason(directory: Path) -> Mason:
    """With the data directory's secret, which the first call makes. Raises `StorageError`."""
    return Mason(read_or_create(directory / KEY, secrets.token_urlsafe(32)))


def find_mason(directory: Path) -> Mason | None:
    """With the secret as it is there; None where there is none, and so no tombstone can be true."""
    secret = read_secret(directory / KEY)
    return None if secret is None else Mason(secret)


def erased_among(session: Session, identifiers: Collection[str]) -> set[str]:
    """Those of the ids that have a tombstone."""
    if not identifiers:
        return set()
    return set(session.exec(select(Tombstone.id).where(col(Tombstone.id).in_(sorted(identifiers)))))
