"""Right and wrong, case by case: an answer against the one that people confirmed, and a version's figures over a suite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median

from msgspec import Struct

from feedback.datasets.cases import EvalCase
from feedback.datasets.contract import TaskContract
from trainer.comparison import Outcome
from trainer.gateway import Answer

Answers = Mapping[str, Answer]
"""One version's answers by case id."""


class Metrics(Struct, frozen=True):
    """How one version did on one suite; shares are 0..1 and null without cases."""

    n: int
    accuracy: float | None
    valid_format: float | None
    ms_per_request: float | None
    """Median, as measured when each case was first asked: for reading, the gate measures its own."""
    ms_per_token: float | None

    @classmethod
    def of(cls, cases: Sequence[EvalCase], answers: Answers, contract: TaskContract) -> Metrics:
        """Figures over `cases`, which must all have been answered."""
        given = [answers[case.id] for case in cases]
        if not given:
            return cls(0, None, None, None, None)
        per_token = [
            answer.latency_ms / answer.completion_tokens for answer in given if answer.completion_tokens
        ]
        return cls(
            n=len(cases),
            accuracy=sum(passed(case, answers) for case in cases) / len(cases),
            valid_format=sum(contract.valid(answer.text) for answer in given) / len(cases),
            ms_per_request=median(answer.latency_ms for answer in given),
            ms_per_token=median(per_token) if per_token else None,
        )


def passed(case: EvalCase, answers: Answers) -> bool:
    """Whether a version's answer to the case is the right one."""
    return matches(case.answer, answers[case.id].text)


def matches(expected: str, output: str) -> bool:
    """Exact match: of values where both are JSON, so that order of keys and spacing do not count; else of trimmed text."""
    left, right = _canonical(expected), _canonical(output)
    if left is not None and right is not None:
        return left == right
    return expected.strip() == output.strip()


def outcomes(cases: Sequence[EvalCase], champion: Answers, challenger: Answers) -> list[Outcome]:
    """Both versions' right and wrong answers, paired."""
    return [
        Outcome(
            case.id, float(passed(case, champion)), float(passed(case, challenger)), case.slice, case.critical
        )
        for case in cases
    ]


def validity(
    cases: Sequence[EvalCase], champion: Answers, challenger: Answers, contract: TaskContract
) -> list[Outcome]:
    """Whether both versions' answers meet the task contract, paired."""
    return [
        Outcome(
            case.id,
            float(contract.valid(champion[case.id].text)),
            float(contract.valid(challenger[case.id].text)),
        )
        for case in cases
    ]


def _canonical(text: str) -> str | None:
    """JSON with sorted keys, or None where the text is not JSON."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None
