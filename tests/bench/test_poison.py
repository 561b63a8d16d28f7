"""The parts of the poisoning simulations that their figures rest on."""

from __future__ import annotations

import pytest

from feedback.datasets.groups import prompt_hash
from feedback.settings import Dataset
from tests.bench.poison import GOLDEN, Crowd, Ground, Turn, Version, history

_WORDS = {"music": "play the song number", "weather": "will it rain in town", "book": "book a table at place"}


def _rows(first: int, count: int) -> list[tuple[str, str]]:
    labels = sorted(_WORDS)
    return [
        (f"{_WORDS[label]} {number} for guest {number}", label)
        for number in range(first, first + count)
        for label in [labels[number % len(labels)]]
    ]


@pytest.fixture(scope="module")
def ground() -> Ground:
    base, live = _rows(0, 60), _rows(1000, 4000)
    groups = {prompt_hash(text): prompt_hash(text) for text, _ in [*base, *live]}
    return Ground(sorted(_WORDS), base, _rows(5000, 60), _rows(6000, 60), _rows(7000, 90), live, groups)


@pytest.mark.parametrize("way", ["corrections", "sybils", "one label"])
def test_liars_tell_lies_under_names_that_are_theirs_alone(ground: Ground, way: str) -> None:
    crowd = Crowd(ground, 0, way, 0.2, Dataset())
    crowd.speak(0, Version(ground, []))
    truth = dict(ground.live)
    wrong = [
        signal.rater in crowd.names
        for one in crowd.said
        for signal in one.signals
        if signal.correction and signal.correction != truth[str(one.messages[-1]["content"])]
    ]
    assert len(wrong) > 50 and sum(wrong) / len(wrong) > 0.9
    assert crowd.lies > 20


def test_nobody_lies_where_the_share_is_nothing(ground: Ground) -> None:
    crowd = Crowd(ground, 0, "corrections", 0.0, Dataset())
    crowd.speak(0, Version(ground, []))
    assert crowd.names == set() and crowd.lies == 0 and len(crowd.said) > 1000


def test_patient_liars_speak_honestly_at_first(ground: Ground) -> None:
    crowd, version = Crowd(ground, 0, "patient", 0.4, Dataset()), Version(ground, [])
    crowd.speak(0, version)
    at_first = crowd.lies
    crowd.speak(1, version)
    assert crowd.lies > 10 * max(1, at_first)


def test_the_champion_stays_where_the_gate_does_not_promote(ground: Ground) -> None:
    """The base answers everything right, so whatever liars train comes to no promotion."""
    turns = history(ground, 0, "corrections", 0.4, False, Dataset(minimum_new=5))
    assert len(turns) == 3
    assert {one.decision for one in turns} <= {"rejected", "inconclusive", "skipped"}
    assert any(one.poison for one in turns)


def test_a_promotion_counts_as_worse_beyond_one_point_alone() -> None:
    def turn(decision: str, difference: float) -> bool:
        return Turn(decision, difference, 0.0, 1, 0, 0).worse

    assert turn("promoted", -0.011) and not turn("promoted", -0.009) and not turn("rejected", -0.5)
    assert GOLDEN >= 100
