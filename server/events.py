"""An engine's event stream: forwarded event by event as it comes, and put together into one answer at its end."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from server.answers import Answer, Facts, check_model, facts_of
from server.errors import Failure

DONE = b"data: [DONE]"
_PREFIX = b"data: "
_END = b"\n\n"
# Told once for a whole message; every other text of a delta is a piece to be joined.
_ONCE = {"role", "id", "type", "name", "object"}


class _UsageOnly(Struct):
    choices: list[Any]
    usage: Any = None


class _Named(Struct):
    model: str | None = None


_usage_only = msgspec.json.Decoder(_UsageOnly)
_named = msgspec.json.Decoder(_Named)


class Events:
    """Takes a stream apart. `feed` says what may go on to the client; `done` once `[DONE]` came."""

    def __init__(self, shows_usage: bool, asked: str) -> None:
        self.done = False
        self._shows_usage = shows_usage
        self._asked: str | None = asked
        self._rest = b""
        self._kept: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """The whole events in what came so far, less a usage event that nobody asked for, and `[DONE]`.

        Raises `WrongAnswerError` when another model than the one asked for is speaking.
        """
        if self._rest:
            data = self._rest + data
        end = data.rfind(_END)
        if end < 0:
            self._rest = data
            return b""
        whole, self._rest = data[: end + 2], data[end + 2 :]
        self._kept.append(whole)
        if self._asked is not None:
            self._check(whole)
        if b"[DONE]" not in whole and b'"usage"' not in whole:
            return whole
        return b"".join(event + _END for event in whole.split(_END) if event and self._may_pass(event))

    def _check(self, whole: bytes) -> None:
        """Look at the first event that names a model."""
        for event in whole.split(_END):
            name = _named_by(event)
            if name is not None and self._asked is not None:
                check_model(name, self._asked)
                self._asked = None

    def _may_pass(self, event: bytes) -> bool:
        if event.strip() == DONE:
            self.done = True
            return False
        if self._shows_usage or not event.startswith(_PREFIX):
            return True
        try:
            seen = _usage_only.decode(event[len(_PREFIX) :])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return True
        return bool(seen.choices) or seen.usage is None

    @property
    def count(self) -> int:
        """Events that came: at least so many tokens, where the engine did not get as far as telling its usage."""
        return sum(whole.count(_END) for whole in self._kept)

    def assemble(self) -> tuple[str | None, Facts, str | None]:
        """The answer that the events amount to, as JSON text of a plain one; its facts; the error among them."""
        whole: dict[str, Any] = {}
        choices: dict[int, dict[str, Any]] = {}
        failed: str | None = None
        for event in b"".join(self._kept).split(_END):
            payload = _payload(event)
            if payload is None:
                continue
            if "error" in payload:
                error = payload["error"]
                failed = str(error.get("message") if isinstance(error, dict) else error)
                continue
            for part in payload.pop("choices", None) or ():
                _add_choice(choices.setdefault(part.get("index", 0), {}), part)
            whole.update({name: value for name, value in payload.items() if value is not None})
        if not whole:
            return None, Facts(), failed
        if isinstance(whole.get("object"), str):
            whole["object"] = whole["object"].removesuffix(".chunk")
        whole["choices"] = [choices[index] for index in sorted(choices)]
        try:
            facts = facts_of(msgspec.convert(whole, Answer))
        except msgspec.ValidationError:
            facts = Facts()
        return msgspec.json.encode(whole).decode(), facts, failed

    def last(self, failure: Failure | None) -> bytes:
        """`[DONE]`, or an OpenAI error object as the event that ends a stream which cannot end well."""
        return (DONE if failure is None else _PREFIX + failure.content) + _END


def _payload(event: bytes) -> dict[str, Any] | None:
    if not event.startswith(_PREFIX):
        return None
    try:
        decoded = msgspec.json.decode(event[len(_PREFIX) :])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _named_by(event: bytes) -> str | None:
    if not event.startswith(_PREFIX):
        return None
    try:
        return _named.decode(event[len(_PREFIX) :]).model
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _add_choice(choice: dict[str, Any], part: dict[str, Any]) -> None:
    delta = part.pop("delta", None)
    if delta is not None:
        _merge(choice.setdefault("message", {}), delta)
    text = part.pop("text", None)
    if text is not None:
        choice["text"] = choice.get("text", "") + text
    for name, value in part.items():
        if name == "logprobs" and isinstance(value, dict):
            if choice.get("logprobs") is None:  # the first event of a chat says null
                choice["logprobs"] = {}
            _merge(choice["logprobs"], value)
        elif value is not None or name not in choice:
            choice[name] = value


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Add a delta: texts are joined, lists grow, numbered things in them are merged by their number."""
    for name, value in part.items():
        present = whole.get(name)
        if value is None:
            whole.setdefault(name, None)
        elif isinstance(value, list):
            whole[name] = present if isinstance(present, list) else []
            _extend(whole[name], value)
        elif isinstance(value, dict) and isinstance(present, dict):
            _merge(present, value)
        elif isinstance(value, str) and isinstance(present, str) and name not in _ONCE:
            whole[name] = present + value
        else:
            whole[name] = value


def _extend(whole: list[Any], parts: list[Any]) -> None:
    for part in parts:
        index = part.get("index") if isinstance(part, dict) else None
        known = next((one for one in whole if index is not None and one.get("index") == index), None)
        if known is None:
            whole.append(part)
        else:
            _merge(known, part)
