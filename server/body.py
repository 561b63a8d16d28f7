"""A completion request's body: decoded once, only where it must be understood, and spliced for the engine.

What the gateway does not need to know stays the bytes that came, so whatever vLLM takes passes through unharmed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from feedback.errors import BadFieldError
from server.decoding import decode_body, decode_field, text_of

T = TypeVar("T")
_NAME_LIMIT = 256
_MOST_CHOICES = 128
"""Answers to one request, as in OpenAI's API: more would keep the engine from everybody else."""
_AUTO = "auto-"
_PAIRS, _KEY_LIMIT, _VALUE_LIMIT = 16, 64, 512


class Part(Struct):
    """A piece of a message's content."""

    text: str | None = None


Content = str | list[Part | str] | None


class Message(Struct):
    """A message, as far as the gateway must know it."""

    role: str
    content: Content = None


_fields = msgspec.json.Decoder(dict[str, Raw])
_string = msgspec.json.Decoder(str)
_optional_string = msgspec.json.Decoder(str | None)
_number = msgspec.json.Decoder(int | None)
FLAG = msgspec.json.Decoder(bool | None)
MESSAGES = msgspec.json.Decoder(list[Message])
_completion_prompt = msgspec.json.Decoder(str | list[str | int | list[int]])
OBJECT = msgspec.json.Decoder(dict[str, Any] | None)
_SHAPING = ("structured_outputs", "response_format", "text", "tools", "functions", "continue_final_message")
"""Fields by which a request says what form its answer has."""
_NOTHING = frozenset({b"null", b"[]", b"{}", b"false"})
_WITH_USAGE = Raw(b'{"include_usage":true}')


class Body(NamedTuple):
    """What one request asks for, as far as the gateway must know."""

    text: str
    """The body as it came."""
    fields: dict[str, Raw]
    """What goes on to the engine: all but `priority`, as no client puts itself before others."""
    model: str
    stream: bool
    shows_usage: bool
    """The client asked for usage at the end of its stream."""
    store: bool
    lists: bool
    """The client asked for it among its stored completions, with `store: true`."""
    user: str | None
    metadata: dict[str, str] | None
    prompt: str | None
    """Text of the last user message."""
    opening: str
    """The conversation's beginning, through its first user message: equal in all requests that extend it."""
    continues: bool
    """The messages hold an answer already: this goes on with a conversation."""

    def forwarded(self, model: str) -> bytes:
        """The body for the engine: its own name for the model, usage always counted."""
        fields: dict[str, Any] = {**self.fields, "model": model}
        if self.stream:
            fields["stream_options"] = _with_usage(fields.get("stream_options"))
        return msgspec.json.encode(fields)

    def constrained(self, structured_outputs: Raw) -> Body:
        """With a form that the answer must have, unless the request says itself what it wants, brings tools, or has begun the
        answer itself."""
        if any(name in self.fields and _says(name, self.fields[name]) for name in _SHAPING):
            return self
        return self._replace(fields={**self.fields, "structured_outputs": structured_outputs})

    def conversation(self, header: str | None) -> str | None:
        """Which conversation this belongs to: as named, else by user and beginning, else unknown."""
        named = header or (self.metadata or {}).get("conversation_id")
        if named:
            return bounded(named, "x-starloop-conversation")
        if self.user is None:
            return None
        seed = f"{self.user}\0{self.opening}".encode("utf-8", "replace")
        return f"{_AUTO}{hashlib.sha256(seed).hexdigest()[:32]}"

    def goes_on(self, conversation: str) -> bool:
        """Whether it continues that conversation: one that is named does, another where it shows an earlier answer."""
        return self.continues or not conversation.startswith(_AUTO)


class Texts(NamedTuple):
    """What a request says, in whichever field its API has for that."""

    prompt: str | None
    opening: str = ""
    continues: bool = False


def read_chat(data: bytes) -> Body:
    """Understand a body of `/v1/chat/completions`. Raises `BadInputError` saying what is wrong and where."""
    return read_body(data, _chat_texts, lists=True)


def read_completion(data: bytes) -> Body:
    """Understand a body of `/v1/completions`. Raises `BadInputError` saying what is wrong and where."""
    return read_body(data, _completion_texts)


def read_body(data: bytes, texts: Callable[[dict[str, Raw]], Texts], lists: bool = False) -> Body:
    """The fields that all APIs have alike, and of the others what `texts` finds.

    `lists`: one with `store: true` goes among the stored completions. Raises `BadInputError` saying what is wrong and where.
    """
    text = text_of(data)
    fields = decode_body(data, _fields)
    fields.pop("priority", None)
    said = texts(fields)
    options = optional(fields, "stream_options", OBJECT) or {}
    store = optional(fields, "store", FLAG)
    for name in ("n", "best_of"):
        number = optional(fields, name, _number)
        if number is not None and not 1 <= number <= _MOST_CHOICES:
            raise BadFieldError(name, f"is {number}; 1 to {_MOST_CHOICES} are possible")
    metadata = optional(fields, "metadata", OBJECT)
    user = optional(fields, "user", _optional_string) or None
    return Body(
        text=text,
        fields=fields,
        model=required(fields, "model", _string),
        stream=optional(fields, "stream", FLAG) or False,
        shows_usage=options.get("include_usage") is True,
        store=store is not False,
        lists=lists and store is True,
        user=None if user is None else bounded(user, "user"),
        metadata=None if metadata is None else checked_metadata(metadata),
        prompt=said.prompt,
        opening=said.opening,
        continues=said.continues,
    )


def _chat_texts(fields: dict[str, Raw]) -> Texts:
    messages = required(fields, "messages", MESSAGES)
    if not messages:
        raise BadFieldError("messages", "is empty; send at least one message")
    return texts_of(messages)


def texts_of(messages: Sequence[Message]) -> Texts:
    """What messages say; of those that no role is known of, nothing."""
    last: str | None = None
    opening: list[str] = []
    for message in messages:
        if last is None:
            opening.append(f"{message.role}\0{plain_text(message.content)}")
        if message.role == "user":
            last = plain_text(message.content)
    return Texts(last, "\0".join(opening), any(message.role == "assistant" for message in messages))


def _completion_texts(fields: dict[str, Raw]) -> Texts:
    if "prompt" not in fields and "prompt_embeds" in fields:
        return Texts(None)
    prompt = required(fields, "prompt", _completion_prompt)
    if isinstance(prompt, list):
        first = prompt[0] if prompt else None
        prompt = first if isinstance(first, str) else ""
    return Texts(prompt or None, prompt)


def plain_text(content: Content) -> str:
    """The text of a message's content, its parts a line each."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part if isinstance(part, str) else part.text or "" for part in content)


def _says(name: str, value: Raw) -> bool:
    """Whether a field of these asks for a form; null and the empty ones do not, and `text` does by its `format` alone."""
    if bytes(value) in _NOTHING:
        return False
    if name != "text":
        return True
    asked = msgspec.json.decode(value)
    return not isinstance(asked, dict) or asked.get("format") is not None


def _with_usage(options: Raw | None) -> Raw:
    if options is None:
        return _WITH_USAGE
    asked = OBJECT.decode(options) or {}
    if not asked.get("include_usage"):
        asked.pop(
            "continuous_usage_stats", None
        )  # means nothing without usage, and would show what is not asked for
    return Raw(msgspec.json.encode({**asked, "include_usage": True}))


def required(fields: dict[str, Raw], name: str, decoder: msgspec.json.Decoder[T]) -> T:
    """One field's value. Raises `BadFieldError` where it is missing or of another kind."""
    if name not in fields:
        raise BadFieldError(name, "is required")
    return decode_field(fields[name], name, decoder)


def optional(fields: dict[str, Raw], name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
    """One field's value, None where it is missing. Raises `BadFieldError` where it is of another kind."""
    return decode_field(fields[name], name, decoder) if name in fields else None


def bounded(text: str, field: str) -> str:
    """A name that is no longer than names may be. Raises `BadFieldError`."""
    if len(text) > _NAME_LIMIT:
        raise BadFieldError(field, f"has {len(text)} characters; {_NAME_LIMIT} are the most")
    return text


def checked_metadata(metadata: dict[str, Any]) -> dict[str, str]:
    """OpenAI's metadata, within its bounds. Raises `BadFieldError`."""
    if len(metadata) > _PAIRS:
        raise BadFieldError("metadata", f"has {len(metadata)} keys; {_PAIRS} are the most")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise BadFieldError(f"metadata.{key[:_KEY_LIMIT]}", "must be a string")
        if len(key) > _KEY_LIMIT or len(value) > _VALUE_LIMIT:
            raise BadFieldError(
                f"metadata.{key[:_KEY_LIMIT]}",
                f"is too long; keys have at most {_KEY_LIMIT} characters and values {_VALUE_LIMIT}",
            )
        if "\0" in key or "\0" in value:
            raise BadFieldError(
                f"metadata.{key[:_KEY_LIMIT]}", "holds the character NUL, which no database takes; remove it"
            )
    return metadata
