"""Triage: which inferences are failure cases, and why. Pure rules over one inference and what was said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feedback.datasets.contract import TaskContract, same_answer
from feedback.settings import Triage


@dataclass(frozen=True)
class Reason:
    """Why an inference counts as a failure."""

    reason: str
    confidence: float
    """0..1: how sure the signal is, from what kind of signal it is."""
    evidence: str

    def shown(self) -> dict[str, Any]:
        """As the record keeps it."""
        return {"reason": self.reason, "confidence": self.confidence, "evidence": self.evidence}


def reasons_for(
    output: str | None,
    finish_reason: str | None,
    ratings: Sequence[int],
    corrections: Sequence[str],
    contract: TaskContract,
    settings: Triage,
) -> list[Reason]:
    """Reasons for one answered production inference; none when it is no failure.

    `ratings` and `corrections` are the current ones of all its raters. The output is None when it was not stored.
    """
    found = []
    low = [rating for rating in ratings if rating <= settings.low_rating]
    if low:
        # One of several raters is weaker evidence than all of them.
        found.append(
            Reason("low_rating", round(0.5 + 0.4 * len(low) / len(ratings), 2), f"rated {min(low)} of 5")
        )
    edited = [text for text in corrections if output is None or not same_answer(text, output)]
    if edited:
        found.append(Reason("edited", 0.9, "a user wrote another answer"))
    if output is not None:
        if not output.strip():
            found.append(Reason("empty", 1.0, "the answer is blank"))
        elif finish_reason == "length":
            found.append(Reason("truncated", 0.9, "the answer stopped at its length limit"))
        elif (problem := contract.problem(output)) is not None:
            found.append(Reason("schema_invalid", 1.0, f"the answer {problem}"))
    return found
