"""What the challenger gains on the champion by each figure that every case has a value of: the intervals beside a cycle's figures.

Right answers are not among them: those the gate compares. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedback.datasets.cases import EvalCase
from feedback.datasets.contract import TaskContract
from trainer.comparison import Comparison, Outcome
from trainer.metrics import Nearness, nearness
from trainer.scoring import Answers, validity


def improvements(
    cases: Sequence[EvalCase], champion: Answers, challenger: Answers, contract: TaskContract
) -> dict[str, Comparison]:
    """Over cases that both have answered: valid form, and how near answers come to the right ones in their words."""
    ours, theirs = (
        [nearness(case.answer, answers[case.id].text) for case in cases] for answers in (champion, challenger)
    )
    compared = {"valid_format": Comparison.of(validity(cases, champion, challenger, contract))}
    for place, metric in enumerate(Nearness._fields):
        compared[metric] = Comparison.of(
            Outcome(case.id, one[place], other[place])
            for case, one, other in zip(cases, ours, theirs, strict=True)
        )
    return compared


def improved_scores(champion: Mapping[str, float], challenger: Mapping[str, float]) -> Comparison:
    """Over scores by case, on the cases that both have one of."""
    both = champion.keys() & challenger.keys()
    return Comparison.of(Outcome(case, champion[case], challenger[case]) for case in sorted(both))
