"""The starter model's task: which of twelve things a help-desk message asks for, and how urgently, as JSON.

`draw` makes a message together with its right answer, from wording that training sees ("train") or from wording
with phrases that training never sees ("live"). Everything follows from the random source that is passed in. The
module does not know who asks: the starter's recipe, simulated users and tests all draw from it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from feedback.starter.pattern import Wording, expand
from feedback.starter.topics import TOPICS
from feedback.starter.wording import CIRCUMSTANCES, CLOSINGS, OPENINGS, SLOTS, URGENCY

KNOWN = ("refund", "delivery", "login", "invoice", "cancel", "damage", "address", "bug")
"""Intents that the starter model has been taught."""

DRIFT = (("voucher", "restock"), ("privacy", "warranty"))
"""Intents that it has not: what users begin to ask about, in two steps."""

INTENTS = KNOWN + tuple(intent for step in DRIFT for intent in step)
URGENCIES = ("low", "normal", "high")

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "intent": {"type": "string", "enum": list(INTENTS)},
        "urgency": {"type": "string", "enum": list(URGENCIES)},
    },
    "required": ["intent", "urgency"],
    "additionalProperties": False,
}
"""JSON schema that every answer meets, whatever the version that wrote it."""

SHORTEST, LONGEST = 6, 25
"""Words in a message."""

_SHORT_FORMS = {
    "please": "pls",
    "you": "u",
    "are": "r",
    "thanks": "thx",
    "because": "bc",
    "your": "ur",
    "and": "&",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A help-desk message with its right answer."""

    text: str
    intent: str
    urgency: str

    @property
    def answer(self) -> str:
        """The one text that counts as right, e.g. `{"intent": "refund", "urgency": "high"}`."""
        return json.dumps({"intent": self.intent, "urgency": self.urgency})


def draw(rng: random.Random, intents: Sequence[str], wording: Wording) -> Message:
    """A message about one of `intents`, each as likely as the others."""
    intent = rng.choice(intents)
    urgency = rng.choices(URGENCIES, weights=(3, 4, 3))[0]
    while True:
        text = _style(_sentences(intent, urgency, rng, wording), rng)
        if SHORTEST <= len(text.split()) <= LONGEST:
            return Message(text, intent, urgency)


def _sentences(intent: str, urgency: str, rng: random.Random, wording: Wording) -> list[str]:
    def say(patterns: Sequence[str]) -> str:
        return _tidy(expand(patterns, SLOTS, rng, wording))

    body = [say(TOPICS[intent])]
    if rng.random() < 0.3:
        body.insert(rng.randrange(2), say(CIRCUMSTANCES))
    if urgency != "normal" or rng.random() < 0.4:
        body.insert(0 if rng.random() < 0.3 else len(body), say(URGENCY[urgency]))
    if rng.random() < 0.3:
        body.insert(0, say(OPENINGS))
    if rng.random() < 0.2:
        body.append(say(CLOSINGS))
    return body


def _tidy(text: str) -> str:
    """Spacing where an optional part was left out, and "an" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.replace(" ,", ",").split()))


def _style(sentences: list[str], rng: random.Random) -> str:
    """Punctuation, capitals, short forms and slips of the hand, as different people have them."""
    hand = rng.random()
    if hand < 0.55:
        text = " ".join(
            _ended(sentence[0].upper() + sentence[1:], rng.choice(("", ".", ".", ".", "!")))
            for sentence in sentences
        )
    elif hand < 0.8:
        mark = rng.choice((",", " -", "...", ".", ""))
        text = " ".join(_ended(sentence, mark) for sentence in sentences).lower().rstrip(",- ")
    else:
        words = " ".join(sentence.rstrip(".?!") for sentence in sentences).split()
        text = " ".join(_SHORT_FORMS.get(word, word) if rng.random() < 0.6 else word for word in words)
        text = text.lower() if rng.random() < 0.5 else text
    return _mistyped(text, rng) if rng.random() < 0.15 else text


def _ended(sentence: str, mark: str) -> str:
    return sentence if sentence[-1] in ".?!" else sentence + mark


def _mistyped(text: str, rng: random.Random) -> str:
    """One word of five letters or more with two letters swapped, or one letter lost or doubled."""
    words = text.split(" ")
    long_words = [place for place, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long_words:
        return text
    place = rng.choice(long_words)
    word = words[place]
    at = rng.randrange(1, len(word) - 2)
    words[place] = rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
    )
    return " ".join(words)
