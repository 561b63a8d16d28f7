"""Triage: which inferences are failure cases, and why. Pure rules over one inference and what was said about it.

Each reason has a confidence, 0..1: how often one would expect a person who looks to agree that the answer failed.
They are argued, not measured, and only their order matters: the review page shows the surest first.

| Reason | Confidence | Because |
|---|---|---|
| `empty`, `schema_invalid` | 1.0 | a fact about the form, of a call that its arguments are an object; no judgement in it |
| `error` | 1.0 | a fact; the engine or the connection failed, the model may be fine |
| `truncated` | 0.9 | a fact, but what was said until then may have been enough |
| `edited` | 0.6–0.95 | somebody took the trouble; a comma moved says less than another answer |
| `low_rating` | 0.5–0.9 | the share of raters who say so, as stars are also given in anger about something else |
| `refusal` | 0.9, 0.6 | the engine's own filter said so; by its words alone, as some refusals are right |
| `repetition` | 0.6–0.95 | the share of the answer that is rounds |
| `negative_follow_up` | 0.7 | said in words, but by a phrase list |
| `asked_again` | 0.5, 0.3 | a habit of people with a bad answer, and of others |
| `slow` | 0.5–0.9 | how far beyond the usual; operations only |
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from feedback.datasets.chat import Messages
from feedback.datasets.contract import TaskContract, same_answer
from feedback.datasets.follow_ups import Sign
from feedback.datasets.slowness import Pace, pace_of
from feedback.datasets.tool_calls import broken_call, calls_of
from feedback.datasets.wording import circle_in, refusal_in
from feedback.settings import Triage

OPERATIONAL = frozenset({"error", "slow"})
"""Reasons that say nothing about the answer: never in quarantine for training, never training data."""
RULES_VERSION = 2
"""Goes up when the rules in the code change what they find."""
_REMEMBERED = 8192
_PRAISE = 4


@dataclass(frozen=True)
class Reason:
    """Why an inference counts as a failure."""

    reason: str
    confidence: float
    evidence: str

    def shown(self) -> dict[str, Any]:
        """As the record keeps it."""
        return {"reason": self.reason, "confidence": self.confidence, "evidence": self.evidence}


@dataclass(frozen=True)
class Answered:
    """One production inference, as far as triage looks at it."""

    output: str | None = None
    """None when it was not stored."""
    finish_reason: str | None = "stop"
    status: int = 200
    error: str | None = None
    latency_ms: float = 0.0
    tokens: int | None = None
    messages: Messages | None = None
    """What was asked; only where the contract's check wants to see it."""


class Triager:
    """The rules of one model, ready for many answers: models that classify repeat theirs, so most are judged once."""

    def __init__(self, contract: TaskContract, settings: Triage) -> None:
        self.contract = contract
        self.settings = settings
        self._form = lru_cache(_REMEMBERED)(self._form_of)

    def reasons(
        self,
        answer: Answered,
        ratings: Sequence[int] = (),
        corrections: Sequence[str] = (),
        signs: Sequence[Sign] = (),
        pace: Pace | None = None,
    ) -> list[Reason]:
        """Why one production inference is a failure case; none when it is none.

        `ratings` and `corrections` are the current ones of all its raters, `signs` what its user did next, `pace` what
        is usual for its version.
        """
        found = list(self._operational(answer, pace))
        if answer.status == 200:
            found = [*self._said(answer.output, ratings, corrections), *found]
            if max(ratings, default=0) < _PRAISE:
                found += [Reason(sign.reason, sign.confidence, sign.evidence) for sign in signs]
            if answer.output is not None:
                if answer.messages is None:
                    found += self._form(answer.output, answer.finish_reason)
                else:
                    found += self._form_of(answer.output, answer.finish_reason, answer.messages)
        return [reason for reason in found if reason.reason not in self.settings.off]

    def _said(
        self, output: str | None, ratings: Sequence[int], corrections: Sequence[str]
    ) -> Iterator[Reason]:
        low = [rating for rating in ratings if rating <= self.settings.low_rating]
        if low:
            # One of several raters is weaker evidence than all of them.
            confidence = round(0.5 + 0.4 * len(low) / len(ratings), 2)
            yield Reason("low_rating", confidence, f"rated {min(low)} of 5")
        edited = [text for text in corrections if output is None or not same_answer(text, output)]
        if edited:
            yield self._edit(output, edited)

    def _edit(self, output: str | None, corrections: Sequence[str]) -> Reason:
        if not output:
            return Reason("edited", 0.9, "a user wrote another answer")
        from rapidfuzz.distance import (
            Levenshtein,  # 40 ms to load, which readers of the record need not wait for
        )

        text = max(corrections, key=lambda one: Levenshtein.normalized_distance(output, one))
        distance = Levenshtein.distance(output, text)
        alike = 1 - distance / max(len(output), len(text))
        told = f"a user wrote another answer: {distance} characters changed, {alike:.0%} alike"
        if self.contract.restricts:
            return Reason("edited", 0.9, told)  # one character makes another label
        return Reason("edited", round(0.6 + 0.35 * (1 - alike), 2), told)

    def _operational(self, answer: Answered, pace: Pace | None) -> Iterator[Reason]:
        if answer.status >= 500 or (answer.status == 200 and answer.error):
            yield Reason("error", 1.0, answer.error or f"status {answer.status}")
        taken = pace_of(answer.latency_ms, answer.tokens) if answer.status == 200 and pace else None
        if pace is None or taken is None:
            return
        above = pace.deviations(taken)
        if above >= self.settings.slow_deviations:
            per_token = answer.latency_ms / (answer.tokens or 1)
            yield Reason(
                "slow",
                round(min(0.9, 0.5 + 0.4 * (above / self.settings.slow_deviations - 1)), 2),
                f"{per_token:.0f} ms per token, where {pace.usual_ms:.0f} is usual ({above:.0f} deviations)",
            )

    def _form_of(
        self, output: str, finish_reason: str | None, messages: Messages | None = None
    ) -> tuple[Reason, ...]:
        if finish_reason == "content_filter":
            return (Reason("refusal", 0.9, "the engine's filter ended the answer"),)
        if not output.strip():
            return (Reason("empty", 1.0, "the answer is blank"),)
        found = []
        problem = None
        if finish_reason == "length":
            found.append(Reason("truncated", 0.9, "the answer stopped at its length limit"))
        elif (problem := self._problem(output, messages)) is not None:
            found.append(Reason("schema_invalid", 1.0, f"the answer {problem}"))
        if problem is not None or not self.contract.restricts:
            words = refusal_in(output, self.settings.refusals)
            if words is not None:
                found.append(Reason("refusal", 0.6, f"the answer begins with {words!r}"))
        circle = circle_in(output)
        if circle is not None:
            told = f"{circle.times} times {circle.piece[:60]!r}, {circle.share:.0%} of the answer"
            found.append(Reason("repetition", round(0.6 + 0.35 * circle.share, 2), told))
        return tuple(found)

    def _problem(self, output: str, messages: Messages | None) -> str | None:
        """Of calls, which tools there were is not known here: curation holds them to their schemas."""
        calls, _ = calls_of(output)
        return self.contract.problem(output, messages) if calls is None else broken_call(calls)


def rules_hash(contract: TaskContract, settings: Triage) -> str:
    """SHA-256 (hex) of all that triage judges by: under another one, what was looked at is looked at again."""
    return hashlib.sha256(msgspec.json.encode([RULES_VERSION, contract.described, settings])).hexdigest()


def is_operational(reasons: Collection[str]) -> bool:
    """Whether reasons, of which there are some, are all about operations."""
    return OPERATIONAL.issuperset(reasons)
