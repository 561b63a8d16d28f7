"""Which of several corrections is believed: a reviewer's, else what most raters say, else none. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from feedback.datasets.contract import answer_key

REVIEWER = "reviewer"
LEAD = 0.5
"""How much more belief the winner needs than the next, in fully believed raters."""

_REMEMBERED = 65536
key_of = lru_cache(_REMEMBERED)(answer_key)
"""`answer_key`, remembered: models that classify and their users repeat the same few answers."""


class Vote(Protocol):
    """One rater's proposal for the right answer."""

    @property
    def rater(self) -> str | None: ...
    @property
    def source(self) -> str: ...
    @property
    def answer(self) -> str: ...


V = TypeVar("V", bound=Vote)


@dataclass(frozen=True)
class Count(Generic[V]):
    """How a vote went."""

    winner: V | None
    """None where nobody has a clear lead; where all belief is 0 as well."""
    raters: int = 0
    """Who said what won."""
    belief: float = 0.0
    """Sum of how far they are believed."""
    against: float = 0.0
    """The same of all others."""
    doubted: bool = False
    """Belief is 0 on all sides: those who spoke count only where somebody else agrees."""
    reviewed: bool = False


def believed(votes: Sequence[V]) -> V | None:
    """The vote that counts where all raters are believed alike; None where they disagree and nobody has a majority."""
    return count_votes(votes, lambda _: 1.0).winner


def count_votes(votes: Sequence[V], belief: Callable[[V], float]) -> Count[V]:
    """Count votes given oldest first, each for as much as `belief` says (0..1).

    Of one rater's votes the newest counts. Of those that say the winning answer, the newest is returned.
    """
    reviewed = [vote for vote in votes if vote.source == REVIEWER]
    if reviewed:
        return Count(reviewed[-1], 1, 1.0, reviewed=True)
    by_answer: dict[str, list[V]] = defaultdict(list)
    for vote in {vote.rater: vote for vote in votes}.values():
        by_answer[key_of(vote.answer)].append(vote)
    sums = sorted(
        ((sum(map(belief, agreed)), agreed) for agreed in by_answer.values()), key=lambda pair: -pair[0]
    )
    if not sums:
        return Count(None)
    total = sum(one for one, _ in sums)
    most, agreed = sums[0]
    second = sums[1][0] if len(sums) > 1 else 0.0
    if most == 0:
        return Count(None, len(agreed), doubted=True)
    if len(sums) > 1 and most - second < LEAD:
        return Count(None, len(agreed), most, total - most)
    standing = set(map(id, agreed))
    winner = next(vote for vote in reversed(votes) if id(vote) in standing)
    return Count(winner, len(agreed), most, total - most)
