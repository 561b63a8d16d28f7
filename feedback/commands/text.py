"""What users and models wrote, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feedback.datasets.tool_calls import answer_text

_SHORT = 120
_INDENT = "    "


def harmless(text: str) -> str:
    """The text without what would steer a terminal: whoever wrote a prompt may have put it there."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)


def shortened(text: str | None, length: int = _SHORT) -> str:
    """The text's beginning in one line, with … where there is more; None was not stored."""
    if text is None:
        return "(not stored)"
    line = " ".join(harmless(text).split())
    return line if len(line) <= length else line[: length - 2] + " …"


def part(name: str, text: str | None) -> list[str]:
    """A whole text under its name, indented; None was not stored."""
    first, *rest = ["(not stored)"] if text is None else harmless(text).splitlines() or [""]
    return [f"{_INDENT}{name}: {first}".rstrip(), *(f"{_INDENT}  {line}".rstrip() for line in rest)]


def conversation(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every message whole, under its role; calls of tools as JSON."""
    return [line for message in messages for line in part(str(message.get("role")), answer_text(message))]
