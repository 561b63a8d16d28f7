"""What one request's life must know of the API in which it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from server.answers import Facts
from server.body import Body
from server.errors import Failure


class Stream(Protocol):
    """An engine's events on their way to the client."""

    done: bool
    """The engine said that its answer is complete."""

    @property
    def count(self) -> int:
        """Events that came."""

    def feed(self, data: bytes) -> bytes:
        """What may go on to the client of what came so far. Raises `WrongAnswerError`."""

    def assemble(self) -> tuple[str | None, Facts, str | None]:
        """The whole answer as JSON text, its facts, and the error among its events."""

    def last(self, failure: Failure | None) -> bytes:
        """The event that ends the stream, well or with what went wrong."""


class Dialect(NamedTuple):
    """One API. Its functions are pure, and know nothing of versions, keys or the journal."""

    path: str
    """The route, here and at the engine."""
    operation: str
    """What traces call it, by OpenTelemetry's conventions for generative models."""
    read: Callable[[bytes], Body]
    """Understands a body. Raises `BadInputError`."""
    forwarded: Callable[[Body, str, str], bytes]
    """The body for the engine: its own name for the model, and the inference's id where the API takes one."""
    facts: Callable[[bytes, str], Facts]
    """What a plain answer says of itself. Raises `WrongAnswerError`."""
    stream: Callable[[Body, str], Stream]
    told: Callable[[Failure], bytes]
    """An error in this API's own shape."""
    kept: Callable[[bytes], str]
    """What of a plain answer is kept."""
    purpose: str | None = None
    """What its requests are recorded as where they teach nothing, as no model learns from them; the base answers those that
    name no version."""
    constrains: bool = False
    """Its requests take vLLM's `structured_outputs`."""


def as_openai(failure: Failure) -> bytes:
    """OpenAI's error object."""
    return failure.content


def whole(content: bytes) -> str:
    """All of a plain answer."""
    return content.decode("utf-8", "replace")
