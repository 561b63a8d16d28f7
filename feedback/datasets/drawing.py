"""Draws evaluation cases in a process of its own.

Knowing which prompts are near to each other takes an index of all of them and SciPy: seconds of the interpreter and a
hundred megabytes that a gateway worker would keep for good. In a process beside it both are over with the draw.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from feedback.access.audit import Actor, note
from feedback.apart import answer_apart, ask_apart
from feedback.datasets.cases import draw_cases
from feedback.settings import Settings
from feedback.storage.database import open_database


class Drawing(Struct):
    """What to draw, and for whom."""

    settings: Settings
    model: str
    count: int
    seed: int
    actor: Actor
    now: datetime


class Drawn(Struct):
    """Ids of the new cases, in the order drawn."""

    cases: list[str]


def draw_apart(drawing: Drawing) -> list[str]:
    """Draw and commit, with a line in the audit log; the new cases' ids. Raises what `ask_apart` raises."""
    told = f"drawing cases for {drawing.model!r}"
    return ask_apart("feedback.datasets.drawing", drawing, Drawn, told).cases


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


if __name__ == "__main__":
    answer_apart(Drawing, _draw)
