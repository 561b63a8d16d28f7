"""Reads paired results from a JSONL file of anyone's making, and names every bad row by file, line and field."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from feedback.errors import BadFieldError, BadInputError
from trainer.comparison import Outcome

_SHOWN = 20
_NEEDED = ("id", "champion", "challenger")
_OPTIONAL = ("slice", "critical")
_MISTYPED = 0.75
"""How alike a field of another name is to one of ours to be taken for a slip."""
_LARGEST = 1e12
"""Beyond it differences and their means lose the digits that decide."""


def read_outcomes(path: Path) -> list[Outcome]:
    """The file's rows, `{"id", "champion": {"passed"|"score"}, "challenger": {…}, "slice"?, "critical"?}`, and whatever else
    they have, which is passed over.

    Raises `BadInputError` with one line for each bad row: nothing is judged by half a file.
    """
    outcomes: list[Outcome] = []
    used: tuple[str, int] | None = None  # `passed` or `score`, and the line that said it first
    seen: dict[str, int] = {}
    problems: list[str] = []
    for number, line in _lines(path):
        try:
            outcome, kind = _outcome(line)
            if outcome.id in seen:
                raise BadFieldError("id", f"{outcome.id!r} already stands on line {seen[outcome.id]}")
            seen[outcome.id] = number
            used = used or (kind, number)
            if kind != used[0]:
                raise BadFieldError(
                    "champion", f"has {kind!r} where line {used[1]} has {used[0]!r}; use one of them"
                )
            outcomes.append(outcome)
        except BadFieldError as error:
            problems.append(f"{path}:{number}: {error}")
    if not seen and not problems:
        problems.append(f"{path}: holds no case; write one JSON object a line")
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise BadInputError("\n".join(problems[:_SHOWN] + more))
    return outcomes


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _outcome(line: str) -> tuple[Outcome, str]:
    """One row, and whether it says `passed` or `score`."""
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadFieldError("row", f"is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadFieldError("row", f"must be an object, not {_shown(row)}")
    for name in row.keys() - {*_NEEDED, *_OPTIONAL}:
        close = difflib.get_close_matches(name.lower(), _OPTIONAL, n=1, cutoff=_MISTYPED)
        if close and close[0] not in row:  # left out in silence, the case would lose what protects it
            _check_writable("row", name)
            raise BadFieldError(
                name[:40], f"is no field of a case; did you mean {close[0]!r}? If not, name it otherwise"
            )
    identifier = row.get("id")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not identifier:
        raise BadFieldError("id", f"must be a text that names the case, not {_shown(identifier)}")
    _check_writable("id", identifier)
    champion, kind = _result(row, "champion")
    challenger, other = _result(row, "challenger")
    if kind != other:
        raise BadFieldError("challenger", f"has {other!r} where champion has {kind!r}; use the same for both")
    slice_, critical = row.get("slice"), row.get("critical")
    if slice_ is not None and (not isinstance(slice_, str) or not slice_.strip()):
        raise BadFieldError(
            "slice", f"must be a text that names the slice, not {_shown(slice_)}; leave it out for none"
        )
    _check_writable("slice", slice_ or "")
    if critical is not None and not isinstance(critical, bool):
        raise BadFieldError("critical", f"must be true or false, not {_shown(critical)}")
    return Outcome(identifier, champion, challenger, slice_, bool(critical)), kind


def _result(row: dict[str, Any], side: str) -> tuple[float, str]:
    """One version's result as a number, and the name under which it stood."""
    result = row.get(side)
    if not isinstance(result, dict):
        raise BadFieldError(side, f'must be {{"passed": …}} or {{"score": …}}, not {_shown(result)}')
    kinds = [kind for kind in ("passed", "score") if kind in result]
    if len(kinds) != 1:
        problem = "has both passed and score; keep one" if kinds else "has neither passed nor score"
        raise BadFieldError(side, problem)
    kind, value = kinds[0], result[kinds[0]]
    if kind == "passed":
        if not isinstance(value, bool):
            raise BadFieldError(f"{side}.passed", f"must be true or false, not {_shown(value)}")
        return float(value), kind
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadFieldError(f"{side}.score", f"must be a number, not {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadFieldError(f"{side}.score", f"must be a finite number, not {_shown(value)}")
    if abs(number) > _LARGEST:
        raise BadFieldError(
            f"{side}.score", f"must lie between -{_LARGEST:.0e} and {_LARGEST:.0e}, not {_shown(value)}"
        )
    return number, kind


def _check_writable(field: str, text: str) -> None:
    """Names are shown again: JSON can hold halves of characters, which can be written nowhere."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise BadFieldError(field, f"holds half a surrogate pair (\\u{half:04x}); remove it") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _shown(value: object) -> str:
    return "missing" if value is None else f"{json.dumps(value)[:40]}"
