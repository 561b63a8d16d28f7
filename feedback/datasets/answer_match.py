"""Whether an answer is the one that was expected. Pure."""

from __future__ import annotations

import json

from feedback.datasets.tool_calls import asked_calls


def matches(expected: str, output: str) -> bool:
    """Exact match: of values where both are JSON, so that order of keys and spacing do not count; else of trimmed text.

    Calls match by names and arguments, in their order: their ids are the engine's, and what is said beside them is no
    part of what is done.
    """
    if (calls := asked_calls(expected)) is not None:
        return calls == asked_calls(output)
    left, right = _canonical(expected), _canonical(output)
    if left is not None and right is not None:
        return left == right
    return expected.strip() == output.strip()


def _canonical(text: str) -> str | None:
    """JSON with sorted keys, or None where the text is not JSON."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None
