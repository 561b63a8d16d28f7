"""Every error that Starloop raises on purpose, as one tree; each message says what was wrong, where, and what to do.

StarloopError
├── SettingsError          configuration: lists every problem at once
├── BadInputError          a request, file or argument that cannot be taken
│   ├── BadFieldError      … with the field named
│   ├── HeadTooLargeError  … whose headers are beyond all bounds
│   └── TooLargeError      … that is larger than may be sent
├── NotFoundError          a name or id that the record does not hold
├── ConflictError          right in form, impossible in the present state
├── NotAllowedError        no key, or a key that does not reach this far
│   └── NoKeyError
├── LimitReachedError      a key has used up what it may use for now
├── UnavailableError       a part that should be there is away for now (engine, database)
├── StorageError           disk full, read-only directory, damaged file
├── DataRefusedError       data that must not be trained on or judged by
└── UnsoundAdapterError    weights that must not reach an engine
"""

from __future__ import annotations

from collections.abc import Sequence


class StarloopError(Exception):
    """Root of the tree. `str(error)` is a complete sentence that may be shown to a user."""

    goes_on = False
    """Whether the work that it interrupts is gone on with by whoever takes it up, so that what is under way elsewhere is left."""


class SettingsError(StarloopError):
    """Configuration that cannot be used. `problems` has one line for each thing wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class BadInputError(StarloopError):
    """Input that cannot be taken as it is; nothing was written."""


class BadFieldError(BadInputError):
    """Input in which one field is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class HeadTooLargeError(BadInputError):
    """A request's headers are larger than is taken."""


class TooLargeError(BadInputError):
    """What is sent is larger than is taken."""


class NotFoundError(StarloopError):
    """The record holds no such thing."""


class ConflictError(StarloopError):
    """The request is well formed, but the present state does not allow it."""


class NotAllowedError(StarloopError):
    """The key is known but does not reach this far."""


class NoKeyError(NotAllowedError):
    """No key came with the request, or none that is known."""


class LimitReachedError(StarloopError):
    """A key has used up what it may use for now; `retry_after` is in whole seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class UnavailableError(StarloopError):
    """A part is away for now; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class StorageError(StarloopError):
    """Disk full, directory read-only, file damaged."""


class DataRefusedError(StarloopError):
    """Data that must not be trained on or judged by, with the reason."""


class UnsoundAdapterError(StarloopError):
    """Adapter weights that are not finite, not of the base's shapes, or not what their checksum says."""


class UnreadableAdapterError(UnsoundAdapterError):
    """Adapter weights that could not be read just now, which may pass: nothing is known of them."""
