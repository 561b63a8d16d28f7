"""What curation works on: answers with all that was said about them, and the training rows that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from feedback.datasets.chat import Conversation, Messages, content_hash
from feedback.datasets.splits import Side


class Signal(NamedTuple):
    """One rater's current word on an inference."""

    feedback_id: str
    rater: str
    source: str
    rating: int | None
    correction: str | None
    created: float = 0.0
    preferred_over: str | None = None
    """The inference whose answer they found worse than this one."""


def place_of(messages: Messages, tools: list[Any] | None) -> str:
    """What tells a turn from others after the same question: its tools, and what they returned until then.

    A call, and the answer that is made of what it returned, are right in turns and never in each other's place.
    """
    if not tools:
        return ""
    asked = max((at for at, one in enumerate(messages) if one["role"] == "user"), default=-1)
    after = [{**one, "tool_calls": None, "tool_call_id": None} for one in messages[asked + 1 :]]
    return content_hash(after, "", tools)


@dataclass(frozen=True, slots=True)
class Said:
    """A production answer with all that was said about it."""

    inference_id: str
    messages: Messages
    output: str
    group_key: str
    side: Side | None
    """What group and user agree on; None where they do not, and the row is used for nothing."""
    signals: tuple[Signal, ...]
    finish_reason: str | None = "stop"
    resolution: str | None = None
    """What a person did with its failure case: `corrected`, `accepted` (it was right) or `dismissed`."""
    reviewed_answer: str | None = None
    reviewed_by: str | None = None
    version: str = ""
    tools: list[Any] | None = None
    """What could be called; `output` may then be calls (`tool_calls.turn_of`)."""

    @property
    def whole(self) -> bool:
        """Whether the answer came to its own end."""
        return self.finish_reason in ("stop", "tool_calls")

    @property
    def place(self) -> str:
        """What tells it from other turns after the same question (`place_of`)."""
        return place_of(self.messages, self.tools)


class BaseExample(NamedTuple):
    """A conversation that came with the model, with its group and side."""

    conversation: Conversation
    group_key: str
    side: Side | None
    import_id: str | None = None
    rejected: str | None = None
    """An answer that was thought worse, where one came with it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training row and where it comes from."""

    messages: Messages
    answer: str
    source: str
    """`correction` (a user's), `reviewer`, `sibling` (a better-rated answer to the same or a like prompt), `teacher`
    or `best-of-n` (a candidate that was accepted), `replay` (a well-rated answer), `import` or
    `base`."""
    group_key: str
    content_hash: str
    """Identity of the row: prompt and answer."""
    new: bool = False
    inference_id: str | None = None
    """The answer that failed, or that was praised."""
    feedback_id: str | None = None
    rater: str | None = None
    import_id: str | None = None
    weight: float = 1.0
    """Factor of its loss, 0..1: how far those who stand for it are believed."""
    tools: list[Any] | None = None
    """What the assistant could call; `answer` may then be calls (`tool_calls.turn_of`)."""
    why: dict[str, Any] = field(default_factory=dict)
    """The figures that let it in, as they were then. Names nobody: other raters' names are not this row's to keep."""


class Pair(NamedTuple):
    """Two answers to one prompt, of which one is better: for training on preferences."""

    messages: Messages
    chosen: str
    rejected: str
    source: str
    group_key: str
    inference_id: str | None = None
    """Whose answer was rejected; None for one that was imported."""
    feedback_id: str | None = None
    rater: str | None = None
    """Who wrote or praised the better one."""
    import_id: str | None = None
    new: bool = False
    tools: list[Any] | None = None

    @property
    def content_hash(self) -> str:
        """Identity of the pair: prompt and both answers."""
        refused = {"role": "assistant", "content": self.rejected}
        return content_hash([*self.messages, refused], self.chosen, self.tools)
