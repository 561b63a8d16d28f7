"""Lines and JSON objects out of a stream of bytes, in bounded memory whatever the stream holds."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, NoReturn

from feedback.errors import BadFieldError
from feedback.imports.rows import BadRow
from feedback.imports.strangers import BEGINNING, refuse_stranger

LONGEST = 8 << 20
"""Bytes of the longest line that is taken: some two million tokens."""
_SKIPPED = 1 << 20
_BLANK = codecs.BOM_UTF8 + b" \t\r\n\v\f"


class Line(NamedTuple):
    """A line with its end; without `content` it was longer than is taken."""

    number: int
    content: bytes | None


def read_lines(stream: IO[bytes], name: str) -> Iterator[Line]:
    """The lines of a stream, a byte-order mark before the first left out. Raises what `refuse_stranger` does."""
    number, begun = 0, False
    while line := stream.readline(LONGEST + 1):
        number += 1
        if not begun:
            refuse_stranger(line[:BEGINNING], name)
            begun = bool(line.strip())
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > LONGEST and not line.endswith(b"\n"):
            while (rest := stream.readline(_SKIPPED)) and not rest.endswith(b"\n"):
                pass
            yield Line(number, None)
        else:
            yield Line(number, line)


def too_long(number: int) -> BadRow:
    """What is said of a line without content."""
    return BadRow(number, "line", f"is longer than {LONGEST >> 20} MB; split or shorten it")


def read_objects(stream: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """JSONL: each line's number, and its object or what is wrong with it. Blank lines are passed over."""
    for number, content in read_lines(stream, name):
        if content is None:
            yield number, too_long(number)
        elif content.strip(_BLANK):
            try:
                # Files that were put together have a mark where each began.
                yield number, parse_object(content.removeprefix(codecs.BOM_UTF8))
            except BadFieldError as error:
                yield number, BadRow(number, error.field, error.problem)


def parse_object(content: bytes) -> dict[str, Any]:
    """A line's JSON object. Raises `BadFieldError` for anything else, and for a key that stands twice."""
    try:
        value = _decoder.decode(content.rstrip().decode())
    except UnicodeDecodeError as error:
        raise BadFieldError(
            "line",
            f"is not UTF-8 (byte 0x{content[error.start]:02x} at {error.start}); save the file as UTF-8",
        ) from None
    except RecursionError:
        raise BadFieldError("line", "is nested too deep; no row needs that") from None
    except json.JSONDecodeError as error:
        raise BadFieldError("line", f"is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        digits = "int_max_str_digits" in str(error)  # Python's own words are about Python
        told = "holds a number of thousands of digits" if digits else f"is not JSON: {error}"
        raise BadFieldError("line", told) from None
    if not isinstance(value, dict):
        raise BadFieldError(
            "line", "must be a JSON object; write one row a line (`jq -c '.[]'` splits an array)"
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadFieldError(key[:60], "stands twice in one object; keep one of them")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
