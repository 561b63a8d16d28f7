"""How far each rater is believed: agreement with others on the same prompts, and spread of the stars. Pure.

Judged by the user, not by the row: who lies is found by all that they said (arXiv 2208.03295). A rater starts where the
crowd stands, lower where all their ratings are the same in a way the crowd's are not, and moves from there with every
answer that others also spoke about. Others count as far as they are believed themselves, so the figures are found by
repetition; people with the review scope and base examples count fully, and cannot be outvoted by raters who agree to lie.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from feedback.datasets.contract import TaskContract
from feedback.datasets.said import BaseExample, Said
from feedback.datasets.votes import REVIEWER, key_of

if TYPE_CHECKING:
    from feedback.datasets.neighbours import Verdict

GOOD, BAD = 4, 2
"""Stars from which an answer counts as right, and up to which as wrong; 3 says neither."""
EXPECTED = 0.8
"""Agreement of a crowd of which nothing is known yet, worth `_CROWD` comparisons."""
_CROWD = 5.0
_PRIOR = 4.0
"""Comparisons that a rater's start is worth: so many more move the figure half of the way."""
_SPREAD_PRIOR = 5.0
"""Ratings that the crowd's spread is worth."""
_TRUSTED = 5.0
"""What a reviewer's word and a base example weigh among raters' at most 1 each."""
_ROUNDS = 8
_NOTHING = 1e-9
"""Less than what rounding leaves of a sum."""


@dataclass(frozen=True)
class Figures:
    """One rater, with the figures that their reliability comes from. Shares are 0..1."""

    rater: str
    ratings: int
    mean: float | None
    """Of their stars."""
    spread: float
    """1 where their stars vary as the crowd's do or say what most would; towards 0 where all are the same."""
    compared: float
    """Answers that others spoke about too, less where those are hardly believed."""
    agreement: float | None
    """Share of these where they say what others say."""
    reliability: float
    low: bool
    """Whether they are believed only where somebody else agrees."""

    @property
    def why(self) -> str:
        """The figures as a sentence."""
        said = [f"reliability {self.reliability:.2f}{' (low)' if self.low else ''}"]
        if self.agreement is None:
            said.append("nobody else spoke about the same prompts")
        else:
            said.append(f"agrees with others in {self.agreement:.0%} of {self.compared:.1f} comparisons")
        if self.mean is not None:
            said.append(f"{self.ratings} ratings, {self.mean:.1f} stars on average, spread {self.spread:.2f}")
        return "; ".join(said)


@dataclass(frozen=True)
class Trust:
    """Whom to believe how far. Without any figures everybody is believed fully, which is the guard switched off."""

    figures: Mapping[str, Figures] = field(default_factory=dict)
    crowd: float = 1.0
    """Reliability of a rater of whom nothing is known."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Feedback that waits for a reviewer (`brigades`), with the id of what holds it."""
    guarded: bool = False
    neighbours: Mapping[str, Verdict] = field(default_factory=dict)
    """What like prompts say of a correction or of praise (`heed_neighbours`), by feedback id."""

    def of(self, rater: str | None) -> float:
        """Reliability, 0..1."""
        found = self.figures.get(rater or "")
        return self.crowd if found is None else found.reliability

    def low(self, rater: str | None) -> bool:
        """Whether the rater is believed only where somebody else agrees."""
        found = self.figures.get(rater or "")
        return found is not None and found.low

    def contradicted(self, feedback_id: str | None) -> bool:
        """Whether like prompts clearly speak against it."""
        found = self.neighbours.get(feedback_id or "")
        return found is not None and found.contradicted


EVERYBODY = Trust()


class _Opinion(NamedTuple):
    """That an answer is right, or wrong."""

    rater: str | None
    """None for a person with the review scope and for base examples."""
    answer: str
    right: bool
    closed: bool
    """Whether another answer than the right one is wrong: so with labels, not with prose."""
    scored: bool


def judge_raters(
    said: Sequence[Said],
    base: Iterable[BaseExample],
    contract: TaskContract,
    low_reliability: float,
    held: Mapping[str, str] | None = None,
) -> Trust:
    """Figures of all raters. `low_reliability` is the share of the crowd's reliability below which one counts as low."""
    groups = _shared(_opinions(said, base, contract))
    stars: dict[str, Counter[int]] = defaultdict(Counter)
    for one in said:
        for signal in one.signals:
            if signal.source != REVIEWER:
                stars[signal.rater].update([signal.rating] if signal.rating is not None else [])
    spread = _spreads(stars)
    weights = dict(spread)
    agreed: dict[str, float] = {}
    compared: dict[str, float] = {}
    crowd = EXPECTED
    for _ in range(_ROUNDS):
        agreed, compared = _compare(groups, weights)
        sums = [
            sum(weights[rater] * amount for rater, amount in amounts.items())
            for amounts in (agreed, compared)
        ]
        crowd = (sums[0] + _CROWD * EXPECTED) / (sums[1] + _CROWD)
        weights = {
            rater: (agreed.get(rater, 0.0) + _PRIOR * crowd * spread[rater])
            / (compared.get(rater, 0.0) + _PRIOR)
            for rater in spread
        }
    figures = {
        rater: Figures(
            rater=rater,
            ratings=stars[rater].total(),
            mean=_mean(stars[rater]),
            spread=round(spread[rater], 3),
            compared=round(compared.get(rater, 0.0), 2),
            agreement=round(agreed[rater] / compared[rater], 3) if compared.get(rater) else None,
            reliability=round(weight, 3),
            low=weight < low_reliability * crowd,
        )
        for rater, weight in weights.items()
    }
    return Trust(figures, round(crowd, 3), dict(held or {}), guarded=True)


def neighbour_facts(trust: Trust, feedback_id: str | None) -> dict[str, Any]:
    """What like prompts say of it, as a row of a dataset version keeps it; nothing where none are near."""
    found = trust.neighbours.get(feedback_id or "")
    return {} if found is None else {"neighbours": found.facts}


def facts_of(trust: Trust, rater: str | None) -> dict[str, Any]:
    """A rater's figures without the name, as a row of a dataset version keeps them."""
    found = trust.figures.get(rater or "")
    known = (
        {}
        if found is None
        else {"agreement": found.agreement, "compared": found.compared, "spread": found.spread}
    )
    return {"reliability": trust.of(rater), "crowd": trust.crowd, "low": trust.low(rater)} | known


def _opinions(
    said: Sequence[Said], base: Iterable[BaseExample], contract: TaskContract
) -> dict[str, list[_Opinion]]:
    """Everybody's opinions by prompt group. A rater has one on each answer there, the newest."""
    newest: dict[str, dict[tuple[str | None, str], _Opinion]] = defaultdict(dict)

    def add(group: str, opinion: _Opinion) -> None:
        newest[group][opinion.rater, opinion.answer] = opinion

    for one in said:
        output = key_of(one.output)
        closed = contract.slice_of(one.output) is not None
        for signal in one.signals:
            rater = None if signal.source == REVIEWER else signal.rater
            text = (signal.correction or "").strip()
            corrects = bool(text) and contract.valid(text, one.messages) and key_of(text) != output
            if signal.rating is not None and (signal.rating >= GOOD or signal.rating <= BAD):
                right = signal.rating >= GOOD and not corrects
                add(one.group_key, _Opinion(rater, output, right, closed, not corrects))
            elif corrects:
                add(one.group_key, _Opinion(rater, output, False, closed, False))
            if corrects:
                add(
                    one.group_key,
                    _Opinion(rater, key_of(text), True, contract.slice_of(text) is not None, True),
                )
        if one.resolution == "accepted":
            add(one.group_key, _Opinion(None, output, True, closed, False))
        elif one.resolution == "corrected" and one.reviewed_answer:
            answer = one.reviewed_answer
            add(
                one.group_key,
                _Opinion(None, key_of(answer), True, contract.slice_of(answer) is not None, False),
            )
            if key_of(answer) != output:
                add(one.group_key, _Opinion(None, output, False, closed, False))
    for row in base:
        if row.group_key in newest:
            answer = row.conversation.answer
            add(
                row.group_key,
                _Opinion(None, key_of(answer), True, contract.slice_of(answer) is not None, False),
            )
    return {group: list(opinions.values()) for group, opinions in newest.items()}


def _shared(groups: Mapping[str, list[_Opinion]]) -> list[list[_Opinion]]:
    """Those groups about which more than one spoke."""
    return [opinions for opinions in groups.values() if len({one.rater for one in opinions}) > 1]


def _compare(
    groups: Sequence[Sequence[_Opinion]], weights: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """For each rater, how much of what they said others said too, and out of how much."""
    agreed: dict[str, float] = defaultdict(float)
    compared: dict[str, float] = defaultdict(float)
    for opinions in groups:
        said: dict[tuple[str, bool], float] = defaultdict(float)
        instead: dict[str, float] = defaultdict(float)  # belief in each closed answer being the right one
        own: dict[str | None, float] = defaultdict(float)  # the same of each rater alone
        for one in opinions:
            weight = _TRUSTED if one.rater is None else weights[one.rater]
            said[one.answer, one.right] += weight
            if one.right and one.closed:
                instead[one.answer] += weight
                own[one.rater] += weight
        total = sum(instead.values())
        for mine in opinions:
            if not mine.scored or mine.rater is None:
                continue
            counted = mine.right and mine.closed
            for_me = said[mine.answer, mine.right] - weights[mine.rater]
            against = said[mine.answer, not mine.right]
            if mine.closed:
                others = total - instead[mine.answer] - own[mine.rater]
                others += weights[mine.rater] if counted else 0.0
                if mine.right:
                    against += others
                else:
                    for_me += others
            for_me, against = max(for_me, 0.0), max(against, 0.0)
            if for_me + against > _NOTHING:
                mass = min(1.0, for_me + against)
                agreed[mine.rater] += mass * for_me / (for_me + against)
                compared[mine.rater] += mass
    return agreed, compared


def _spreads(stars: Mapping[str, Counter[int]]) -> dict[str, float]:
    """1, less where somebody's stars hardly vary while most others would have given other ones.

    The crowd's distribution is the mean over raters, so that who rates much does not set it; few ratings are shrunk
    towards the crowd's variance.
    """
    raters = [given for given in stars.values() if given]
    crowd = (
        {star: sum(given[star] / given.total() for given in raters) / len(raters) for star in range(1, 6)}
        if raters
        else {}
    )
    middle = sum(star * share for star, share in crowd.items())
    variance = sum(share * (star - middle) ** 2 for star, share in crowd.items())
    found = {}
    for rater, given in stars.items():
        count, mean = given.total(), _mean(given)
        if mean is None or variance == 0 or crowd[given.most_common(1)[0][0]] >= 0.5:
            found[rater] = 1.0
            continue
        own = sum(number * (star - mean) ** 2 for star, number in given.items()) / count
        shrunk = (count * own + _SPREAD_PRIOR * variance) / (count + _SPREAD_PRIOR)
        found[rater] = min(1.0, (shrunk / variance) ** 0.5)
    return found


def _mean(given: Counter[int]) -> float | None:
    count = given.total()
    return round(sum(star * number for star, number in given.items()) / count, 3) if count else None
