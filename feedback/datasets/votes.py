"""Which of several corrections is believed: a reviewer's, else what most raters say, else none. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

from feedback.datasets.contract import answer_key

REVIEWER = "reviewer"


class Vote(Protocol):
    """One rater's proposal for the right answer."""

    @property
    def rater(self) -> str | None: ...
    @property
    def source(self) -> str: ...
    @property
    def answer(self) -> str: ...


V = TypeVar("V", bound=Vote)


def believed(votes: Sequence[V]) -> V | None:
    """The vote that counts, of votes given oldest first; None where raters disagree and nobody has a majority.

    Of one rater's votes the newest counts. Of those that say the winning answer, the newest is returned.
    """
    reviewed = [vote for vote in votes if vote.source == REVIEWER]
    if reviewed:
        return reviewed[-1]
    by_answer: dict[str, list[V]] = defaultdict(list)
    for vote in {vote.rater: vote for vote in votes}.values():
        by_answer[answer_key(vote.answer)].append(vote)
    most = max(map(len, by_answer.values()), default=0)
    winners = [agreed for agreed in by_answer.values() if len(agreed) == most]
    if len(winners) != 1:
        return None
    agreed = winners[0]
    return next(vote for vote in reversed(votes) if vote in agreed)
