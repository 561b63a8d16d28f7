"""A task in a process of its own: what it loads and keeps in memory is gone with it.

A gateway worker that did such a task itself would hold SciPy and an index of all prompts for good, and its interpreter
for seconds. The task comes on the process's standard input and its result goes to standard output, both as JSON: a
command line can be read by everybody on the machine, and the database's address may hold a password.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from feedback.errors import StarloopError, StorageError, UnavailableError

SECONDS = 600.0

T = TypeVar("T", bound=Struct)
R = TypeVar("R", bound=Struct)


class _Outcome(Struct):
    """What the process came to: a result, or why there is none."""

    result: Raw = Raw(b"null")
    problem: str = ""
    away: bool = False
    """The problem passes: the database did not answer."""


def ask_apart(module: str, task: Struct, result: type[R], told: str) -> R:
    """Have `python -m module` do the task; `told` begins the error's sentence, as in "drawing cases for 'assistant'".

    Raises `UnavailableError` or `StorageError` when the database cannot be used, `StarloopError` when the process died.
    """
    command = [sys.executable, "-P", "-m", module]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(task), stdout=subprocess.PIPE, timeout=SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StarloopError(
            f"{told} did not end well: {_cause(error)}; what it said is in the gateway's log"
        ) from error
    outcome = msgspec.json.decode(done.stdout, type=_Outcome)
    if outcome.problem:
        raise (UnavailableError if outcome.away else StorageError)(outcome.problem)
    return msgspec.json.decode(outcome.result, type=result)


def answer_apart(task: type[T], work: Callable[[T], Struct]) -> None:
    """The process itself: do the task on standard input and write what comes of it."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=task)
    try:
        outcome = _Outcome(Raw(msgspec.json.encode(work(asked))))
    except (StorageError, UnavailableError) as error:
        outcome = _Outcome(problem=str(error), away=isinstance(error, UnavailableError))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


def _cause(error: Exception) -> str:
    """Without the command line, which says nothing to a reader."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"its process ended with status {error.returncode}"
    return (
        f"it took more than {SECONDS:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
    )
