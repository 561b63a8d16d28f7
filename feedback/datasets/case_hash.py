"""What names a version's greedy answer to a case, so that it is asked for once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def case_hash(
    messages: Sequence[Mapping[str, Any]],
    max_tokens: int,
    revision: str = "",
    tools: Sequence[Any] | None = None,
    form: Mapping[str, Any] | None = None,
) -> str:
    """SHA-256 (hex) of messages, tools and decoding parameters, of the base's revision where the base answers, and of the form
    that the engine holds answers to (`constraint_of`), which calls of tools are not."""
    asked: dict[str, Any] = {"messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
    if tools:
        asked["tools"] = list(tools)
    elif form:
        asked["structured_outputs"] = form
    if revision:
        asked["revision"] = revision
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
