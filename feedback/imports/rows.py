"""The canonical row: one conversation in OpenAI's chat form, whatever form its file had. Also what is wrong with one.

What comes in as a preference keeps its rejected answer beside the messages; the chosen one is their end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from feedback.datasets.chat import Conversation, Messages, content_hash, last_user_text
from feedback.datasets.tool_calls import answer_text
from feedback.errors import BadFieldError

_ROLES = ("system", "developer", "user", "assistant", "tool")
_FIRST = ("system", "developer")
_KEPT = ("name", "tool_calls", "tool_call_id")
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
_FIELD_LENGTH, _PROBLEM_LENGTH = 100, 500
EMPTY_ANSWER = "is empty; write the right answer, or leave the row out"


class BadRow(NamedTuple):
    """A row that cannot be taken, and how to mend it."""

    line: int
    """Line of the file, from 1; of Parquet the row, from 1."""
    field: str
    problem: str

    def tellable(self) -> BadRow:
        """The same, with what it quotes of the file made short, and text that can be stored and shown."""
        return BadRow(self.line, _quoted(self.field, _FIELD_LENGTH), _quoted(self.problem, _PROBLEM_LENGTH))


class Row(Struct, omit_defaults=True):
    """One line of `rows.jsonl` in the data directory."""

    messages: Messages
    line: int
    """Where it stood in the file that was given."""
    tools: list[Any] | None = None
    rejected: dict[str, Any] | None = None
    """The answer that was thought worse than the last message."""
    label: str | None = None
    source: str | None = None

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over the conversation: all its answers stand and fall to one side together."""
        return content_hash(self.messages, "", self.tools)

    @property
    def worse(self) -> str | None:
        """The text that was thought worse than the last message; None without one."""
        return None if self.rejected is None else answer_text(self.rejected)

    @property
    def answers(self) -> int:
        """How many answers may be learned."""
        return sum(1 for _ in self.targets())

    def targets(self) -> Iterator[Conversation]:
        """Each answer that may be learned, a call of a tool too, with the conversation before it."""
        before: Messages = []
        for message in self.messages:
            turn = {key: value for key, value in message.items() if key != "weight"}
            turn["content"] = message.get("content") or ""
            if message["role"] == "assistant" and message.get("weight") != 0 and last_user_text(before):
                yield Conversation(list(before), answer_text(turn), self.tools)
            before.append(turn)


def checked_messages(value: Any, field: str) -> Messages:
    """Messages with nothing but what is kept of them. Raises `BadFieldError` for what is no conversation to learn from."""
    if not isinstance(value, list) or not value:
        raise BadFieldError(field, f"must be a list of messages, not {_told(value)}")
    messages = [_message(one, f"{field}.{place}") for place, one in enumerate(value)]
    _check_order(messages, field)
    if messages[-1]["role"] != "assistant":
        raise BadFieldError(
            f"{field}.{len(messages) - 1}.role",
            f"the last message must be the assistant's, not the {messages[-1]['role']}'s; add the answer",
        )
    if all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        raise BadFieldError(
            field, "every answer has weight 0, so there is nothing to learn; give one weight 1"
        )
    return messages


def checked_text(record: Mapping[str, Any], field: str) -> str:
    """A field's text. Raises `BadFieldError`."""
    value = record.get(field)
    if not isinstance(value, str):
        raise BadFieldError(field, f"must be text, not {_told(value)}")
    if not value.strip():
        raise BadFieldError(field, EMPTY_ANSWER if field in ANSWERS else "is empty; write the prompt")
    return storable(value, field)


ANSWERS = ("completion", "output", "chosen", "rejected", "preferred_output", "non_preferred_output")


def checked_tools(value: Any) -> list[Any] | None:
    """A row's tools, as they stand. Raises `BadFieldError`."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadFieldError("tools", f"must be a list of objects, not {_told(value)}")
    return cast("list[Any]", _writable(value, "tools"))


def storable(text: str, field: str) -> str:
    """The text, if it can be stored. Raises `BadFieldError`."""
    if (found := _NOT_STORABLE.search(text)) is None:
        return text
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8
        raise BadFieldError(
            field, f"is not UTF-8 (byte 0x{code - 0xDC00:02x} at {found.start()}); save the file as UTF-8"
        )
    what = "the character NUL" if code == 0 else f"half a surrogate pair (\\u{code:04x})"
    raise BadFieldError(field, f"holds {what} at {found.start()}, which no database takes; remove it")


def _writable(value: Any, field: str) -> Any:
    """A value of any form, if it can be written as JSON. Raises `BadFieldError`."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise BadFieldError(
            field, f"holds half a surrogate pair (\\u{ord(error.object[error.start]):04x}); remove it"
        ) from None
    except (RecursionError, OverflowError, TypeError, ValueError) as error:
        raise BadFieldError(field, f"cannot be written as JSON ({error}); remove it") from None
    return value


def _message(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadFieldError(field, f"must be an object with role and content, not {_told(value)}")
    role = value.get("role")
    if role not in _ROLES:
        raise BadFieldError(f"{field}.role", f"must be one of {', '.join(_ROLES)}, not {_told(role)}")
    if value.get("function_call"):
        raise BadFieldError(f"{field}.function_call", "is the old form of a call; write tool_calls")
    message: dict[str, Any] = {"role": role, "content": _content(value, f"{field}.content")}
    for name in _KEPT:
        if value.get(name):
            message[name] = _writable(value[name], f"{field}.{name}")
    if (weight := value.get("weight")) is not None:
        if role != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
            raise BadFieldError(
                f"{field}.weight", "must be 0 or 1, and stands only with the assistant's messages"
            )
        message["weight"] = int(weight)
    return message


def _content(message: Mapping[str, Any], field: str) -> str | None:
    content, role = message.get("content"), message["role"]
    if isinstance(content, list):
        for place, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                raise BadFieldError(f"{field}.{place}", "only parts of text can be taken; leave this row out")
        content = "\n".join(part["text"] for part in content)  # as the engine joins them
    calls = role == "assistant" and message.get("tool_calls")
    if content is None and calls:
        return None
    if not isinstance(content, str):
        raise BadFieldError(field, f"must be text, not {_told(content)}")
    if not content.strip() and not calls:
        if role == "assistant" and message.get("weight") != 0:
            raise BadFieldError(field, EMPTY_ANSWER)
        if role == "user":
            raise BadFieldError(field, "is empty; write what was asked")
    return storable(content, field)


def _check_order(messages: Sequence[Mapping[str, Any]], field: str) -> None:
    """System first, then user and assistant in turns, a tool's return only after its call."""
    before = ""
    for place, message in enumerate(messages):
        role = message["role"]
        if role in _FIRST and before not in ("", *_FIRST):
            problem = f"a {role} message stands after the {before}'s; move it to the front"
        elif role == "assistant" and before in ("", *_FIRST):
            problem = "an answer stands before any question; begin with the user's message"
        elif role in ("user", "assistant") and role == before:
            problem = f"two messages of the {role} in a row; join them, or add what stood between"
        elif role == "tool" and not (before == "tool" or _calls(messages, place - 1)):
            problem = f"a {role} message stands without the call that it returns from; add the call before it"
        else:
            before = role
            continue
        raise BadFieldError(f"{field}.{place}.role", f"roles are out of order: {problem}")


def _calls(messages: Sequence[Mapping[str, Any]], place: int) -> bool:
    return place >= 0 and bool(messages[place].get("tool_calls"))


def _quoted(text: str, length: int) -> str:
    text = text if len(text) <= length else f"{text[:length]} …"
    return text.encode("utf-8", "replace").decode()


def _told(value: Any) -> str:
    """A value's kind, short, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value[:40])
    names = {dict: "an object", list: "an empty list" if not value else "a list", bool: "true or false"}
    return names.get(type(value), f"the number {value}" if isinstance(value, int | float) else "that")
