"""Sides: what may be trained on and what may be judged by (invariant 4).

A near-duplicate prompt group has a side, and a user has one, each by a hash of its key alone; so a side is known
without looking at other rows, and never changes as data grows. Only rows whose group and user agree are used. (Joining
users and groups into components instead would make one component of nearly everything.)
"""

from __future__ import annotations

import hashlib
from typing import Literal

Side = Literal["train", "evaluation"]


def group_side(group_key: str, share: float) -> Side:
    """The side of a near-duplicate group; `share` of all groups stand on the evaluation side."""
    return _side("group", group_key, share)


def user_side(user_key: str, share: float) -> Side:
    """The side of who stands for a user (`user_key`)."""
    return _side("user", user_key, share)


def row_side(group_key: str, user_key: str, share: float) -> Side | None:
    """The side of a row: its group's and its user's where they agree, else None, and the row is not used."""
    side = group_side(group_key, share)
    return side if side == user_side(user_key, share) else None


def user_key(user: str | None, conversation: str | None, inference_id: str) -> str:
    """Who stands for the user of an inference: the user, else the conversation, else the inference itself."""
    if user:
        return f"user {user}"
    return f"conversation {conversation}" if conversation else f"inference {inference_id}"


def example_key(content_hash: str) -> str:
    """Who stands for the user of a base example, which nobody asked: the example itself."""
    return f"example {content_hash}"


def validates(group_key: str, share: float) -> bool:
    """Whether a training-side group is held out to watch training itself by. Independent of the sides."""
    return _fraction("validation", group_key) < share


def _side(of: str, key: str, share: float) -> Side:
    return "evaluation" if _fraction(of, key) < share else "train"


def _fraction(purpose: str, key: str) -> float:
    """0 to 1, uniform over keys."""
    digest = hashlib.sha256(f"{purpose}\0{key}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
