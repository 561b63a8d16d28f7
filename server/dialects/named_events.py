"""Event streams whose events have names, as those of the Responses and the Messages API: passed on as they come."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec

from server.answers import Facts, check_model
from server.errors import Failure

_END = b"\n\n"


class Shape(NamedTuple):
    """What sets one API's stream apart."""

    ends: Collection[str]
    """Names of the event with which it is complete."""
    model: Callable[[dict[str, Any]], str | None]
    """The model that an event names, if it does."""
    assemble: Callable[[list[dict[str, Any]]], tuple[str | None, Facts, str | None]]
    """The whole answer as JSON text, its facts and the error among its events."""
    failed: Callable[[Failure, int], bytes]
    """The event that tells an error; the number is how many went before it."""


class NamedEvents:
    """Takes a stream apart; the event that ends it waits until the record stands."""

    def __init__(self, shape: Shape, asked: str) -> None:
        self.done = False
        self._shape = shape
        self._asked: str | None = asked
        self._rest = b""
        self._kept: list[bytes] = []
        self._end = b""

    def feed(self, data: bytes) -> bytes:
        """The whole events in what came so far, less the one that ends the stream.

        Raises `WrongAnswerError` when another model than the one asked for is speaking.
        """
        *events, self._rest = (self._rest + data).split(_END)
        passed = []
        for event in events:
            if not event.strip():
                continue
            self._kept.append(event)
            if self._asked is not None and (name := self._shape.model(payload_of(event) or {})) is not None:
                check_model(name, self._asked)
                self._asked = None
            if _name(event) in self._shape.ends:
                self.done, self._end = True, event + _END
            else:
                passed.append(event + _END)
        return b"".join(passed)

    @property
    def count(self) -> int:
        """Events that came: at least so many tokens, where the engine did not get as far as telling its usage."""
        return len(self._kept)

    def assemble(self) -> tuple[str | None, Facts, str | None]:
        """The answer that the events amount to."""
        return self._shape.assemble([one for one in map(payload_of, self._kept) if one is not None])

    def last(self, failure: Failure | None) -> bytes:
        """The engine's own last event, or what went wrong."""
        return self._end if failure is None else self._shape.failed(failure, len(self._kept))


def payload_of(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None where it has none."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    try:
        decoded = msgspec.json.decode(b"\n".join(lines))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return decoded if isinstance(decoded, dict) else None


def event(name: str, payload: dict[str, Any]) -> bytes:
    """An event of ours."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(payload) + _END


def _name(event: bytes) -> str:
    for line in event.splitlines():
        if line.startswith(b"event:"):
            return line[6:].strip().decode("utf-8", "replace")
    return ""
