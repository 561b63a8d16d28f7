"""Decoding the JSON that clients send, and saying in their words what is wrong with it and where."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from feedback.errors import BadFieldError, BadInputError

T = TypeVar("T")
_MISSING = "Object missing required field "
_UNKNOWN = "Object contains unknown field "


def text_of(data: bytes) -> str:
    """A body's text. Raises `BadInputError` when it is empty or not UTF-8."""
    if not data.strip():
        raise BadInputError("the body is empty; send a JSON object")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"the body is not UTF-8 (byte {error.start}); send JSON in UTF-8, not compressed"
        ) from None


def decode_body(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A whole body. Raises `BadInputError`, naming the field or the byte."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _about(error, "") from None
    except msgspec.DecodeError as error:
        raise BadInputError(f"the body is not valid JSON: {_where(error, data)}") from None
    except RecursionError:
        raise BadInputError("the body is nested too deeply") from None


def decode_field(raw: Raw, name: str, decoder: msgspec.json.Decoder[T]) -> T:
    """One field of a body that was found to be JSON. Raises `BadFieldError`."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _about(error, name) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadFieldError(name, _sentence(str(error))) from None


@lru_cache(64)
def decoder_of(kind: Any) -> msgspec.json.Decoder[Any]:
    """A strict decoder: a number in quotation marks is no number."""
    return msgspec.json.Decoder(kind)


def explain(message: str, place: str = "") -> tuple[str | None, str]:
    """What msgspec found, as the field (None for the whole) and what is wrong with it."""
    message = message.replace("`", "")
    for opening, told in ((_MISSING, "is required"), (_UNKNOWN, "is no field of this")):
        if message.startswith(opening):
            name = message.removeprefix(opening)
            return (f"{place}.{name}" if place else name), told
    return place or None, _sentence(message)


def _about(error: msgspec.ValidationError, name: str) -> BadInputError:
    message, _, place = str(error).partition(" - at `$")
    field, problem = explain(message, (name + place.rstrip("`")).lstrip("."))
    if field is None:
        return BadInputError(f"the body must be a JSON object: {problem}")
    return BadFieldError(field, problem)


def _where(error: msgspec.DecodeError, data: bytes) -> str:
    message = str(error).removeprefix("JSON is malformed: ")
    if "truncated" in message:
        return f"it ends too early, or a \\u escape in it is cut short ({len(data)} bytes)"
    return message


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:]
