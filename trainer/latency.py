"""Measures two versions' latency per token against each other, in turns, within one run.

Latencies that stand beside cached answers were measured at other times under other loads, and do not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from feedback.datasets.cases import EvalCase
from trainer.evaluation import Evaluation, PinnedVersion
from trainer.findings import Latency
from trainer.gateway import Answer
from trainer.statistics import median_ratio

PAIRS = 30
_SEED = 7


def measure(
    evaluation: Evaluation,
    champion: PinnedVersion,
    challenger: PinnedVersion,
    cases: Sequence[EvalCase],
    check: Callable[[], None],
) -> Latency | None:
    """Ask both the same cases one request at a time, champion, challenger, challenger, champion, and compare medians.

    That order cancels a drift of the machine's load, and the faster of a version's two counts: the first fills the
    prefix cache, and a neighbour's burst rarely hits both. None where no case gave tokens from both.
    """
    champions: list[float] = []
    challengers: list[float] = []
    for case in cases[:PAIRS]:
        check()
        order = (champion, challenger, challenger, champion)
        first, second, third, fourth = (_per_token(evaluation.ask(version, case)) for version in order)
        ours, theirs = _faster(first, fourth), _faster(second, third)
        if ours is not None and theirs is not None:
            champions.append(ours)
            challengers.append(theirs)
    if not champions:
        return None
    ratio, interval = median_ratio(challengers, champions, _SEED)
    return Latency(
        pairs=len(champions),
        champion=median(champions),
        challenger=median(challengers),
        ratio=ratio,
        interval=interval,
        against_base=champion.number == "base",
    )


def _per_token(answer: Answer) -> float | None:
    return answer.latency_ms / answer.completion_tokens if answer.completion_tokens else None


def _faster(first: float | None, second: float | None) -> float | None:
    return min(first, second) if first is not None and second is not None else None
