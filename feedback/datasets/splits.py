"""Sides: what may be trained on and what may be judged by (invariant 4).

A near-duplicate prompt group has a side, and a user has one, each by a hash of its key alone; so a side is known
without looking at other rows, and never changes as data grows. Only rows whose group and user agree are used. (Joining
users and groups into components instead would make one component of nearly everything.)
"""

from __future__ import annotations

import hashlib
from typing import Literal

Side = Literal["train", "evaluation"]


def side_of(key: str, share: float) -> Side:
    """The side of a group key or user key; `share` of all keys stand on the evaluation side."""
    return "evaluation" if _fraction("side", key) < share else "train"


def row_side(group_key: str, user_key: str, share: float) -> Side | None:
    """The side of a row: its group's and its user's where they agree, else None, and the row is not used."""
    side = side_of(group_key, share)
    return side if side == side_of(user_key, share) else None


def user_key(user: str | None, conversation: str | None, inference_id: str) -> str:
    """Who stands for the user of an inference: the user, else the conversation, else the inference itself."""
    if user:
        return f"user {user}"
    return f"conversation {conversation}" if conversation else f"inference {inference_id}"


def validation(group_key: str, share: float) -> bool:
    """Whether a training-side group is held out to watch training itself by. Independent of the sides."""
    return _fraction("validation", group_key) < share


def _fraction(purpose: str, key: str) -> float:
    """0 to 1, uniform over keys."""
    digest = hashlib.sha256(f"{purpose}\0{key}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
