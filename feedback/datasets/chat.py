"""Conversations in OpenAI's chat form: out of stored requests, and out of files of base examples."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from feedback.errors import BadInputError
from feedback.registry.bases import STARTER
from feedback.settings import Model
from feedback.starter import examples_file

Messages = list[dict[str, Any]]
_NOT_TEXT = ("tool", "function")
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


class Conversation(NamedTuple):
    """A prompt and its answer."""

    messages: Messages
    answer: str
    tools: list[Any] | None = None
    """What the assistant could call, in OpenAI's form."""

    @property
    def prompt(self) -> str:
        """Text of the last user message."""
        return last_user_text(self.messages)

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over messages and answer: the identity of an example."""
        return content_hash(self.messages, self.answer, self.tools)


def content_hash(messages: Messages, answer: str, tools: list[Any] | None = None) -> str:
    """SHA-256 (hex) over a prompt, its answer and its tools, where it has any, as JSON with sorted keys."""
    whole = [messages, answer, tools] if tools else [messages, answer]
    text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def messages_of(request: str | None) -> Messages | None:
    """The conversation of a stored request, its contents as plain text.

    None for any other request, and for one with tools, images or the like: its prompt is more than its messages
    (`asked.asked_of` reads those with tools).
    """
    if request is None:
        return None
    try:
        body = json.loads(request)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("tools") or body.get("functions"):
        return None
    messages = _asked(body)
    if not messages:
        return None
    plain = [_plain(message) for message in messages]
    return [message for message in plain if message is not None] if None not in plain else None


def _asked(body: dict[str, Any]) -> list[Any] | None:
    """The messages of a request, in whichever API it was made: chat completions, messages, or responses."""
    if "messages" in body:
        opening, messages = body.get("system"), body["messages"]
    else:
        opening, messages = body.get("instructions"), body.get("input")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        return None
    return [{"role": "system", "content": opening}, *messages] if opening else messages


def _plain(message: Any) -> dict[str, Any] | None:
    """A message of role and text alone; None where it is more than that."""
    if not isinstance(message, dict) or message.get("tool_calls") or message.get("role") in _NOT_TEXT:
        return None
    content = message.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in content):
            return None
        content = "\n".join(part["text"] for part in content)  # as the engine joins them
    if not isinstance(content, str):
        return None
    role = message.get("role")
    role = sys.intern(role) if isinstance(role, str) else role  # one string, however many messages are held
    return {"role": role, "content": storable(content)}


def storable(value: Any) -> Any:
    """A JSON value without characters that neither UTF-8 nor PostgreSQL has: escapes can stand for them."""
    if isinstance(value, str):
        return _NOT_STORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [storable(one) for one in value]
    if isinstance(value, dict):
        return {storable(key): storable(one) for key, one in value.items()}
    return value


def last_user_text(messages: Messages) -> str:
    """Text of the last user message: what prompts are compared by."""
    for message in reversed(messages):
        if message.get("role") == "user" and isinstance(message.get("content"), str):
            return str(message["content"])
    return ""


def base_examples(model: Model) -> list[Conversation]:
    """The base examples of a `[[model]]`: its own file, the starter's, or none.

    Raises `BadInputError` naming file, line and field of the first row that cannot be taken.
    """
    if model.examples:
        return list(_read(Path(model.examples).expanduser()))
    return list(_read(examples_file())) if model.base == STARTER else []


def check_examples(model: Model) -> None:
    """Read the model's own file of base examples and keep nothing. Raises `BadInputError` as `base_examples` does."""
    for _ in _read(Path(model.examples).expanduser()):
        pass


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
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where}: is not JSON: {error}") from None
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        raise BadInputError(
            f"{where}: messages: must be a list of at least a user's and an assistant's message"
        )
    plain = messages_of(line)
    if plain is None:
        raise BadInputError(f"{where}: messages: each must have a role and text as its content, and no tools")
    prompt, last = plain[:-1], plain[-1]
    if last["role"] != "assistant" or not last["content"].strip():
        raise BadInputError(f"{where}: messages: the last must be the assistant's, with text as its content")
    if not last_user_text(prompt).strip():
        raise BadInputError(f"{where}: messages: there is no user message with text")
    return Conversation(prompt, last["content"])
