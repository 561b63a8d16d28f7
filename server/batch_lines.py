"""The lines of a batch's file: each a request, understood as the route that it names would."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from feedback.batches.kept import MOST_BYTES, MOST_LINES
from feedback.errors import BadFieldError, BadInputError, StarloopError
from feedback.imports.lines import read_lines, too_long
from feedback.imports.reading import unpacked
from feedback.registry.snapshot import Snapshot
from server.access import Caller
from server.body import Body
from server.decoding import decode_body, decoder_of
from server.dialects.completions import CHAT, COMPLETIONS
from server.dialects.embeddings import EMBEDDINGS
from server.dialects.responses import RESPONSES
from server.routing import chosen_by

_CUSTOM = 512
_TOLD = 1000
"""Bad lines that are told one by one; how many more there are is told as well."""
_BREATH = 50
DIALECTS = {dialect.path: dialect for dialect in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)}


class _Line(Struct, forbid_unknown_fields=True):
    custom_id: str
    method: str
    url: str
    body: Raw


class Request(NamedTuple):
    """One line that is a request."""

    line: int
    custom_id: str
    body: Body


class Looked(NamedTuple):
    """What a whole file holds."""

    total: int
    errors: list[dict[str, Any]]
    """`[{code, line, message, param}]`, empty where all lines can be asked."""


def requests(path: Path, endpoint: str, limit: int) -> Iterator[Request | tuple[int, BadInputError]]:
    """The requests of a file, or with a line's number what is wrong with it; blank lines are passed over.

    `limit` is the most bytes of one body. Raises `BadInputError` for a file that cannot be read.
    """
    read = 0
    with unpacked(path, "the file") as stream:
        for number, content in read_lines(stream, "the file"):
            if content is None:
                yield number, BadFieldError("line", too_long(number).problem)
            elif not content.isspace():
                read += len(content)
                if read > MOST_BYTES:
                    raise BadInputError(f"the file has more than {MOST_BYTES} bytes unpacked; split it")
                try:
                    yield _request(number, content, endpoint, limit)
                except BadInputError as error:
                    yield number, error


def look(path: Path, endpoint: str, limit: int, caller: Caller, snapshot: Snapshot) -> Looked:
    """Whether all lines of a file can be asked by this caller."""
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    bad = total = 0

    def tell(code: str, error: StarloopError, line: int | None, param: str | None) -> None:
        nonlocal bad
        bad += 1
        if bad <= _TOLD:
            place = "" if line is None else f"line {line}: "
            errors.append({"code": code, "line": line, "message": f"{place}{error}", "param": param})

    try:
        for one in requests(path, endpoint, limit):
            total += 1
            if total > MOST_LINES:
                raise BadInputError(f"the file has more than {MOST_LINES} requests; split it")
            if total % _BREATH == 0:
                time.sleep(0.001)  # let the requests of users through, which share the interpreter
            if not isinstance(one, Request):
                line, error = one
                tell("invalid_request", error, line, getattr(error, "field", None))
                continue
            if one.custom_id in seen:
                error = BadFieldError("custom_id", f"{one.custom_id[:60]!r} stands in an earlier line too")
                tell("duplicate_custom_id", error, one.line, "custom_id")
            seen.add(one.custom_id)
            try:
                chosen_by(caller, one.body.model, snapshot)
            except StarloopError as error:
                tell("model_not_found", error, one.line, "body.model")
    except BadInputError as error:
        tell("invalid_file", error, None, None)
    if not total and not errors:
        tell("empty_file", BadInputError("the file holds no request"), None, None)
    if bad > _TOLD:
        more = f"{bad - _TOLD} more lines are bad"
        errors.append({"code": "invalid_request", "line": None, "message": more, "param": None})
    return Looked(total, errors)


def _request(number: int, content: bytes, endpoint: str, limit: int) -> Request:
    line = decode_body(content.strip(), decoder_of(_Line))
    if not 1 <= len(line.custom_id) <= _CUSTOM:
        raise BadFieldError("custom_id", f"must have 1 to {_CUSTOM} characters")
    if line.method != "POST":
        raise BadFieldError("method", f"is {line.method[:20]!r}; it must be 'POST'")
    if line.url != endpoint:
        raise BadFieldError("url", f"is {line.url[:60]!r}; the batch is for {endpoint!r}")
    body = bytes(line.body)
    if len(body) > limit:
        raise BadFieldError("body", f"has {len(body)} bytes; {limit} are the most ([server] body_limit)")
    try:
        read = DIALECTS[endpoint].read(body)
    except BadFieldError as error:
        raise BadFieldError(f"body.{error.field}", error.problem) from None
    if read.stream:
        raise BadFieldError("body.stream", "is true; a batch's answers are whole")
    return Request(number, line.custom_id, read)


def told(line: Request, batch: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> str:
    """A line of an output or error file."""
    identifier = f"batch_req_{batch}_{line.line}"
    whole = {"id": identifier, "custom_id": line.custom_id, "response": response, "error": error}
    return msgspec.json.encode(whole).decode()
