"""Whether a file holds a JSON object in each line: looked at as it comes, and in full detail only when it is trained on."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from feedback.apart import answer_apart, ask_apart
from feedback.errors import BadFieldError, BadInputError
from feedback.imports.lines import read_objects
from feedback.imports.reading import unpacked
from feedback.imports.rows import BadRow

_AT_ONCE = 1 << 20
"""Bytes that are looked at in the calling thread; more would keep other requests waiting for the interpreter."""


class Lines(Struct, kw_only=True):
    """A file to look at."""

    path: str
    name: str


class Found(Struct, kw_only=True):
    """What is wrong with it first, if anything is."""

    problem: str = ""
    bad: int = 0
    rows: int = 0


def check_lines(path: Path, name: str) -> None:
    """Raises `BadFieldError` naming the first line that is no JSON object, and how many there are."""
    task = Lines(path=str(path), name=name)
    small = path.stat().st_size <= _AT_ONCE
    found = _look(task) if small else ask_apart("feedback.files.lines", task, Found, f"reading {name[:80]!r}")
    if not found.problem:
        return
    many = f" ({found.bad} of {found.rows} lines are bad)" if found.bad > 1 else ""
    raise BadFieldError("file", found.problem + many)


def _look(task: Lines) -> Found:
    found = Found()
    try:
        with unpacked(Path(task.path), task.name) as stream:
            for number, row in read_objects(stream, task.name):
                found.rows += 1
                if isinstance(row, BadRow):
                    found.bad += 1
                    told = row.tellable()
                    place = "" if told.field == "line" else f"{told.field}: "
                    found.problem = found.problem or f"line {number}: {place}{told.problem}"
    except BadInputError as error:
        return Found(problem=str(error))
    if not found.rows:
        return Found(problem=f"{task.name}: is empty; there is no line in it")
    return found


if __name__ == "__main__":
    answer_apart(Lines, _look)
