"""Draws evaluation cases in a process of its own.

Knowing which prompts are near to each other takes an index of all of them and SciPy: seconds of the interpreter and a
hundred megabytes that a gateway worker would keep for good. In a process beside it both are over with the draw.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime

import msgspec
from msgspec import Struct

from feedback.access.audit import Actor, note
from feedback.datasets.cases import draw_cases
from feedback.errors import StarloopError, StorageError, UnavailableError
from feedback.settings import Settings
from feedback.storage.database import open_database

_SECONDS = 600.0


class Drawing(Struct):
    """What to draw, and for whom."""

    settings: Settings
    model: str
    count: int
    seed: int
    actor: Actor
    now: datetime


class Drawn(Struct):
    """Ids of the new cases in the order drawn, or why there are none."""

    cases: list[str] = []
    problem: str = ""
    away: bool = False
    """The problem passes: the database did not answer."""


def draw_apart(drawing: Drawing) -> list[str]:
    """Draw and commit, with a line in the audit log; the new cases' ids.

    Raises `UnavailableError` or `StorageError` when the database cannot be used, `StarloopError` when the process died.
    """
    command = [sys.executable, "-P", "-m", "feedback.datasets.drawing"]
    try:
        done = subprocess.run(  # through a pipe: the database's address may hold a password
            command, input=msgspec.json.encode(drawing), stdout=subprocess.PIPE, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StarloopError(
            f"drawing cases for {drawing.model!r} did not end well: {_cause(error)}; nothing was drawn, and what it "
            "said is in the gateway's log"
        ) from error
    drawn = msgspec.json.decode(done.stdout, type=Drawn)
    if drawn.problem:
        raise (UnavailableError if drawn.away else StorageError)(drawn.problem)
    return drawn.cases


def _cause(error: Exception) -> str:
    """Without the command line, which says nothing to a reader."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"its process ended with status {error.returncode}"
    return (
        f"it took more than {_SECONDS:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
    )


def _draw(drawing: Drawing) -> Drawn:
    database = open_database(drawing.settings)
    try:
        with database.session() as session:
            cases = draw_cases(
                session, drawing.model, drawing.count, drawing.settings, drawing.seed, drawing.now
            )
            drawn = Drawn([case.id for case in cases])
            details = {"asked": drawing.count, "drawn": len(cases), "seed": drawing.seed}
            note(session, drawing.actor, "case.draw", drawing.model, drawing.now, **details)
            session.commit()
            return drawn
    finally:
        database.close()


def main() -> None:
    """The process itself: a `Drawing` on standard input, a `Drawn` on standard output."""
    drawing = msgspec.json.decode(sys.stdin.buffer.read(), type=Drawing)
    try:
        drawn = _draw(drawing)
    except (StorageError, UnavailableError) as error:
        drawn = Drawn(problem=str(error), away=isinstance(error, UnavailableError))
    sys.stdout.buffer.write(msgspec.json.encode(drawn))


if __name__ == "__main__":
    main()
