"""Personal data in what a dataset version would be made of: kept, replaced or left out, as `[dataset] pii` says.

It happens before anything is chosen, so that examples are known by the hash of what is really trained on. Groups and sides
were given by the prompts as they were asked, and stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeVar

from feedback.datasets.chat import Messages
from feedback.datasets.curation import BaseExample, Said
from feedback.privacy.pii import Placeholders
from feedback.privacy.redaction import in_document, in_text

T = TypeVar("T", Said, BaseExample)


class Screened(NamedTuple):
    """What is left to choose from, and what was done."""

    said: list[Said]
    base: list[BaseExample]
    imported: list[BaseExample]
    facts: dict[str, Any]
    """`{setting, answers, base_examples, imported, values: {kind: count}}`: how many held personal data, and of which kind."""


def screened(
    said: Sequence[Said],
    base: Sequence[BaseExample],
    imported: Sequence[BaseExample],
    setting: Literal["keep", "redact", "drop"],
) -> Screened:
    """Answers, base examples and imported rows with placeholders (`redact`), or without those that hold personal data (`drop`).

    An answer counts with all that was said about it: a correction with an address in it takes the whole with it.
    """
    if setting == "keep":
        return Screened(list(said), list(base), list(imported), {"setting": setting})
    values: Counter[str] = Counter()
    kept_said = _screen(said, setting, values)
    kept_base = _screen(base, setting, values)
    kept_imported = _screen(imported, setting, values)
    facts = {
        "setting": setting,
        "answers": kept_said[1],
        "base_examples": kept_base[1],
        "imported": kept_imported[1],
        "values": dict(sorted(values.items())),
    }
    return Screened(kept_said[0], kept_base[0], kept_imported[0], facts)


def _screen(rows: Sequence[T], setting: str, values: Counter[str]) -> tuple[list[T], int]:
    kept: list[T] = []
    holding = 0
    for row in rows:
        together = Placeholders()
        clean = _clean(row, together)
        values.update(together.count())
        holding += bool(together.count())
        if setting == "redact" or not together.count():
            kept.append(clean)
    return kept, holding


def _clean(row: T, together: Placeholders) -> T:
    if isinstance(row, BaseExample):
        messages: Messages = in_document(row.conversation.messages, together)
        answer = in_text(row.conversation.answer, together)
        tools: list[Any] | None = in_document(row.conversation.tools, together)
        conversation = row.conversation._replace(messages=messages, answer=answer, tools=tools)
        return row._replace(conversation=conversation, rejected=_put(row.rejected, together))
    return replace(
        row,
        messages=in_document(row.messages, together),
        output=in_text(row.output, together),
        tools=in_document(row.tools, together),
        signals=tuple(
            signal._replace(correction=_put(signal.correction, together)) for signal in row.signals
        ),
        reviewed_answer=_put(row.reviewed_answer, together),
    )


def _put(text: str | None, together: Placeholders) -> str | None:
    return None if text is None else in_text(text, together)
