"""Who talks to the model in the demo: honest users, a reviewer's knowledge, and a few liars. Pure and seeded.

Every message carries its right answer, which only this package knows: the loop sees ratings and corrections.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from feedback.starter.grammar import DRIFT, INTENTS, KNOWN, Message, draw

USERS = 400
RATES = 0.7
"""Share of answers that honest users rate."""
NOISE = 0.05
"""Share of honest ratings that say the opposite of what the answer deserves."""
CORRECTS = 1 / 3
"""Share of low ratings that come with the right answer."""
MISTAKES = 0.03
"""Share of honest corrections that are wrong."""
NEWEST_SHARE, EARLIER_SHARE = 0.35, 0.15
"""Shares of traffic about the newest topics, and about those that were new in earlier turns."""
LIARS = 6
LIES = {"refund": "cancel"}
"""What liars call a topic that the model knows well. They agree on it, as people with an aim would."""


@dataclass(frozen=True)
class Request:
    """One message that one user sends."""

    user: str
    message: Message
    liar: bool = False


@dataclass(frozen=True)
class Opinion:
    """What the user then says about the answer."""

    rating: int
    correction: str | None = None


@dataclass
class Population:
    """All simulated people, and one random stream for everything they do."""

    seed: int
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def traffic(self, count: int, newest: Sequence[str] = (), earlier: Sequence[str] = ()) -> list[Request]:
        """`count` requests of honest users, also about topics that came up since the base was made."""
        requests = []
        for _ in range(count):
            chance = self.rng.random()
            if newest and chance < NEWEST_SHARE:
                intents = newest
            elif earlier and chance > 1 - EARLIER_SHARE:
                intents = earlier
            else:
                intents = KNOWN
            user = f"user-{self.rng.randrange(USERS):03d}"
            requests.append(Request(user, draw(self.rng, intents, "live")))
        return requests

    def attack(self, count: int) -> list[Request]:
        """`count` requests of each liar, about what they lie about."""
        return [
            Request(f"liar-{liar}", draw(self.rng, tuple(LIES), "live"), liar=True)
            for liar in range(LIARS)
            for _ in range(count)
        ]

    def opinion(self, request: Request, answer: str) -> Opinion | None:
        """Rating and correction for an answer, or None when the user says nothing."""
        if request.liar:
            return Opinion(1, _lie(request.message))
        if self.rng.random() >= RATES:
            return None
        deserved = answer == request.message.answer
        pleased = deserved != (self.rng.random() < NOISE)
        if pleased:
            return Opinion(self.rng.choice((4, 5, 5)))
        rating = self.rng.choice((1, 1, 2))
        if self.rng.random() >= CORRECTS:
            return Opinion(rating)
        if self.rng.random() < MISTAKES:
            return Opinion(rating, draw(self.rng, INTENTS, "live").answer)
        return Opinion(rating, request.message.answer)


def held_out(seed: int, per_known: int, per_drift: int) -> list[Message]:
    """The demo's own yardstick: live wording, never sent by a user, the same for every version."""
    rng = random.Random(f"held-out {seed}")
    drifted = [intent for pair in DRIFT for intent in pair]
    wanted = [(intent, per_known) for intent in KNOWN] + [(intent, per_drift) for intent in drifted]
    messages = [draw(rng, (intent,), "live") for intent, count in wanted for _ in range(count)]
    rng.shuffle(messages)
    return messages


def _lie(message: Message) -> str:
    return json.dumps({"intent": LIES[message.intent], "urgency": message.urgency})
