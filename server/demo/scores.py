"""What the demo measures of a version, from ground truth that the loop never sees."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from feedback.starter.grammar import KNOWN, SCHEMA, Message
from server.demo.client import Answer

_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@dataclass
class VersionScore:
    """One row of the demo's table."""

    version: str
    accuracy: float
    accuracy_old: float
    valid_format: float
    ms_per_request: float
    fixes: int
    regressions: int
    intents: dict[str, float]
    right: list[bool] = field(repr=False)
    mean_stars: float | None = None
    decision: str = "serving at the start"

    def shown(self) -> dict[str, Any]:
        """The row as the JSON file has it (shares 0..1)."""
        return {
            "version": self.version,
            "accuracy": round(self.accuracy, 4),
            "accuracy_old": round(self.accuracy_old, 4),
            "mean_stars": None if self.mean_stars is None else round(self.mean_stars, 2),
            "valid_format": round(self.valid_format, 4),
            "ms_per_request": round(self.ms_per_request, 1),
            "fixes": self.fixes,
            "regressions": self.regressions,
            "accuracy_by_intent": {intent: round(share, 4) for intent, share in self.intents.items()},
            "decision": self.decision,
        }


def score(
    version: str, messages: Sequence[Message], answers: Sequence[Answer], before: VersionScore | None
) -> VersionScore:
    """Score a version on the held-out messages; fixes and regressions are against `before`, case by case."""
    right = [answer.text == message.answer for message, answer in zip(messages, answers, strict=True)]
    by_intent: dict[str, list[bool]] = defaultdict(list)
    for message, hit in zip(messages, right, strict=True):
        by_intent[message.intent].append(hit)
    intents = {intent: statistics.fmean(hits) for intent, hits in sorted(by_intent.items())}
    pairs = list(zip(before.right, right, strict=True)) if before else []
    return VersionScore(
        version=version,
        # Every topic weighs the same, whatever the number of its cases.
        accuracy=statistics.fmean(intents.values()),
        accuracy_old=statistics.fmean(intents[intent] for intent in KNOWN),
        valid_format=statistics.fmean(_valid(answer.text) for answer in answers),
        ms_per_request=statistics.median(answer.milliseconds for answer in answers),
        fixes=sum(now and not then for then, now in pairs),
        regressions=sum(then and not now for then, now in pairs),
        intents=intents,
        right=right,
    )


def _valid(text: str) -> bool:
    try:
        return bool(_VALIDATOR.is_valid(json.loads(text)))
    except ValueError:
        return False
