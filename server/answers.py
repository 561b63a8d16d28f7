"""What an engine's answer says about itself: read, never rewritten."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from feedback.datasets.tool_calls import answer_text
from feedback.errors import UnavailableError


class WrongAnswerError(UnavailableError):
    """The engine answered with something that is not an answer to what was asked."""


class Facts(NamedTuple):
    """What is recorded of an answer beside its text."""

    output: str | None = None
    """Text of the first choice; of one that calls tools, as `tool_calls.answer_text` has it."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Said(Struct):
    content: str | None = None
    tool_calls: list[Any] | None = None


class Choice(Struct):
    index: int = 0
    message: Said | None = None
    text: str | None = None
    finish_reason: str | None = None


class Answer(Struct):
    """A whole chat completion or completion."""

    choices: list[Choice]
    model: str = ""
    usage: Usage | None = None


class EngineError(Struct):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class EngineErrorBody(Struct):
    """OpenAI's error object, or vLLM's older one at the top level."""

    error: EngineError | UnsetType = UNSET
    message: str | UnsetType = UNSET


_answer = msgspec.json.Decoder(Answer)
_error = msgspec.json.Decoder(EngineErrorBody)


def read_answer(content: bytes, asked: str) -> Facts:
    """The facts of a plain answer.

    Raises `WrongAnswerError` when it is not one, or was written by another model than `asked`: exactly one version
    may stand behind an answer.
    """
    return facts_of(decoded(_answer, content, asked, "completion"))


class Named(Protocol):
    """An answer that says which model wrote it."""

    model: str


N = TypeVar("N", bound=Named)


def decoded(decoder: msgspec.json.Decoder[N], content: bytes, asked: str, kind: str) -> N:
    """A plain answer of some API, written by the model that was asked. Raises `WrongAnswerError` as `read_answer` does."""
    try:
        answer = decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongAnswerError(f"the engine's answer is not a {kind} ({error})") from None
    check_model(answer.model, asked)
    return answer


def check_model(answered: str, asked: str) -> None:
    """Raises `WrongAnswerError` unless the model that answered is the one that was asked."""
    if answered != asked:
        raise WrongAnswerError(f"the engine answered as {answered!r} although {asked!r} was asked for")


def facts_of(answer: Answer) -> Facts:
    """Text, reason and counts; the first choice stands for the rest."""
    first = min(answer.choices, key=lambda choice: choice.index, default=None)
    usage = answer.usage or Usage()
    if first is None:
        return Facts(None, None, usage.prompt_tokens, usage.completion_tokens)
    return Facts(_output(first), first.finish_reason, usage.prompt_tokens, usage.completion_tokens)


def read_error(content: bytes) -> str | None:
    """The message of an engine's error, or None when it has none."""
    try:
        body = _error.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(body.error, EngineError):
        return body.error.message
    return body.message if isinstance(body.message, str) else None


def has_error_object(content: bytes) -> bool:
    """Whether a body already is OpenAI's error object."""
    try:
        return isinstance(_error.decode(content).error, EngineError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _output(choice: Choice) -> str | None:
    said = choice.message
    if said is None:
        return choice.text
    if said.tool_calls:
        return answer_text({"content": said.content, "tool_calls": said.tool_calls})
    return said.content
