"""Right and wrong, case by case: an answer against the one that people confirmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedback.datasets.answer_match import matches
from feedback.datasets.cases import EvalCase
from feedback.datasets.contract import TaskContract, answer_key
from trainer.comparison import Outcome
from trainer.gateway import Answer

Answers = Mapping[str, Answer]
"""One version's answers by case id."""


def passed(case: EvalCase, answers: Answers) -> bool:
    """Whether a version's answer to the case is the right one."""
    return matches(case.answer, answers[case.id].text)


def outcomes(
    cases: Sequence[EvalCase], champion: Answers, challenger: Answers, contract: TaskContract
) -> list[Outcome]:
    """Both versions' right and wrong answers, paired.

    Where the task contract tells no kinds of answer, cases with the same right answer are of one kind.
    """

    def kind(case: EvalCase, text: str) -> str | None:
        return contract.slice_of(text) if case.slice else answer_key(text)

    return [
        Outcome(
            case.id,
            float(passed(case, champion)),
            float(passed(case, challenger)),
            case.slice or answer_key(case.answer),
            case.critical,
            case.facets,
            (kind(case, champion[case.id].text), kind(case, challenger[case.id].text)),
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
            float(contract.valid(champion[case.id].text, case.messages, case.tools)),
            float(contract.valid(challenger[case.id].text, case.messages, case.tools)),
        )
        for case in cases
    ]
