"""How far a model's raters are believed, found in a process of its own, for the gateway.

Weighing raters reads all that was said and places new prompts in their groups: seconds, and memory that a gateway worker
would keep for good.
"""

from __future__ import annotations

import heapq
from datetime import datetime

from msgspec import Struct

from feedback.apart import answer_apart, ask_apart
from feedback.datasets.contract import TaskContract
from feedback.datasets.raters import Figures
from feedback.datasets.weighing import gather
from feedback.settings import Settings
from feedback.storage.database import open_database

LEAST = 200


class Asked(Struct):
    """Whose raters."""

    settings: Settings
    model: str
    now: datetime


class Belief(Struct, frozen=True):
    """How far raters are believed, 0..1."""

    crowd: float = 1.0
    """Of a rater of whom nothing is known."""
    raters: dict[str, float] = {}
    least: list[Figures] = []
    """Those who are believed least, with what that comes from: at most `LEAST`."""

    def share(self, rater: str) -> float:
        """How far a rater is believed beside the crowd; 1 for its reliability and above."""
        return min(1.0, self.raters.get(rater, self.crowd) / self.crowd) if self.crowd else 1.0


def belief_apart(asked: Asked) -> Belief:
    """As curation believes them. Raises what `ask_apart` raises."""
    return ask_apart(
        "feedback.datasets.believed", asked, Belief, f"weighing the raters of {asked.model[:60]!r}"
    )


def _weigh(asked: Asked) -> Belief:
    model = asked.settings.model_named(asked.model)
    if model is None:
        return Belief()
    database = open_database(asked.settings)
    try:
        trust = gather(database, asked.settings, model, TaskContract.from_settings(model), asked.now).trust
        least = heapq.nsmallest(LEAST, trust.figures.values(), key=lambda one: (one.reliability, one.rater))
        return Belief(trust.crowd, {rater: one.reliability for rater, one in trust.figures.items()}, least)
    finally:
        database.close()


if __name__ == "__main__":
    answer_apart(Asked, _weigh)
