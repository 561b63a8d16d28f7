"""Who gets which of two versions while users compare them. Pure, but for the row that it is read from.

The arm of a user follows from the user and the cycle alone, so every gateway and every look at the record agree on it
without telling each other, and nobody changes arms while shares stay as they are.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

from msgspec import Struct
from sqlmodel import Session, select

from feedback.storage.tables import Canary, Move

Kind = Literal["canary", "watch"]
_PARTS = float(1 << 64)


class Arms(Struct, frozen=True):
    """An open canary or watch, as requests are dealt to its versions; see `Canary`."""

    kind: Kind
    version: str
    against: str
    share: float
    salt: str

    @classmethod
    def of(cls, row: Canary) -> Arms:
        """The arms of a row of the record."""
        kind: Kind = "watch" if row.kind == "watch" else "canary"
        return cls(kind=kind, version=row.version, against=row.against, share=row.share, salt=row.salt)

    def version_for(self, unit: str) -> str:
        """The version that a unit (`unit_of`) gets."""
        place = place_of(unit, self.salt)
        if self.kind == "canary":
            return self.version if place < self.share else self.against
        return self.against if place >= 1 - self.share else self.version


def unit_of(user: str | None, conversation: str | None, inference_id: str) -> str:
    """Whom an inference counts for: its user; for an unknown one the conversation, else the inference itself."""
    if user is not None:
        return f"user {user}"
    return f"inference {inference_id}" if conversation is None else f"conversation {conversation}"


def place_of(unit: str, salt: str) -> float:
    """Where a unit stands in 0..1, evenly spread and the same for ever."""
    digest = blake2b(f"{salt}\0{unit}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _PARTS


def open_canary(session: Session, model: str) -> Canary | None:
    """The comparison that goes on for a model."""
    return session.exec(select(Canary).where(Canary.model == model, Canary.state == "open")).first()


def end_by_move(session: Session, move: Move) -> None:
    """The champion moves, in the session's transaction: what users were comparing is decided by that, or void."""
    row = open_canary(session, move.model)
    if row is None:
        return
    to = move.to_version or "base"
    if row.kind == "canary" and to == row.version:
        row.state, row.reason = "passed", move.reason
    elif row.kind == "watch" and move.kind == "rollback" and to == row.against:
        row.state, row.reason = "rolled_back", move.reason
    else:
        row.state, row.reason = "withdrawn", f"the champion moved to {to} meanwhile: {move.reason}"
    row.ended = move.created
    session.add(row)
    session.flush()
