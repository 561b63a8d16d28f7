"""Conversations in OpenAI's chat form: out of stored requests, and out of files of base examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from feedback.errors import BadInputError
from feedback.registry.bases import STARTER
from feedback.settings import Model
from feedback.starter import examples_file

Messages = list[dict[str, Any]]


class Conversation(NamedTuple):
    """A prompt and its answer."""

    messages: Messages
    answer: str

    @property
    def prompt(self) -> str:
        """Text of the last user message."""
        return last_user_text(self.messages)

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over messages and answer: the identity of an example."""
        return content_hash(self.messages, self.answer)


def content_hash(messages: Messages, answer: str) -> str:
    """SHA-256 (hex) over a prompt and its answer, as JSON with sorted keys."""
    text = json.dumps([messages, answer], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def messages_of(request: str | None) -> Messages | None:
    """The messages of a stored chat request; None for any other request."""
    if request is None:
        return None
    try:
        messages = json.loads(request).get("messages")
    except (ValueError, AttributeError):
        return None
    if not isinstance(messages, list) or not messages:
        return None
    return messages if all(isinstance(message, dict) for message in messages) else None


def last_user_text(messages: Messages) -> str:
    """Text of the last user message; of content parts, their texts joined."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            if isinstance(content, list):
                texts = [part.get("text") for part in content if isinstance(part, dict)]
                return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def base_examples(model: Model) -> list[Conversation]:
    """The base examples of a `[[model]]`: its own file, the starter's, or none.

    Raises `BadInputError` naming file, line and field of the first row that cannot be taken.
    """
    if model.examples:
        return list(_read(Path(model.examples).expanduser()))
    return list(_read(examples_file())) if model.base == STARTER else []


def _read(path: Path) -> Iterator[Conversation]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(line, f"{path}: line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: the base examples cannot be read: {error}") from None


def _row(line: str, where: str) -> Conversation:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInputError(f"{where}: is not JSON: {error}") from None
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or len(messages) < 2 or not all(isinstance(m, dict) for m in messages):
        raise BadInputError(
            f"{where}: messages: must be a list of at least a user's and an assistant's message"
        )
    last = messages[-1]
    if (
        last.get("role") != "assistant"
        or not isinstance(last.get("content"), str)
        or not last["content"].strip()
    ):
        raise BadInputError(f"{where}: messages: the last must be the assistant's, with text as its content")
    if not last_user_text(messages[:-1]).strip():
        raise BadInputError(f"{where}: messages: there is no user message with text")
    return Conversation(messages[:-1], last["content"])
