"""What is said about like prompts, against a correction or a praised answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from feedback.datasets.chat import Conversation
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import choose_corrections
from feedback.datasets.ladder import CONTRADICTED
from feedback.datasets.neighbours import heed_neighbours
from feedback.datasets.rated import choose_rated
from feedback.datasets.raters import EVERYBODY, Trust, judge_raters
from feedback.datasets.replay import choose_replay
from feedback.datasets.said import BaseExample, Said, Signal
from feedback.settings import Dataset

CONTRACT = TaskContract(labels=["music", "weather", "book"])
CITIES = [
    "rome",
    "paris",
    "oslo",
    "berlin",
    "tokyo",
    "lima",
    "cairo",
    "delhi",
    "quito",
    "dakar",
    "minsk",
    "sofia",
]
ARTISTS = ["abba", "queen", "blur", "muse", "toto", "kiss", "tool", "pulp", "suede", "rush", "yes", "genesis"]


def shown(side: str = "train") -> list[BaseExample]:
    rows = [(f"play a song by {one}", "music") for one in ARTISTS]
    rows += [(f"will it rain in {one} today", "weather") for one in CITIES]
    return [
        BaseExample(Conversation([{"role": "user", "content": text}], label), text, side)  # type: ignore[arg-type]
        for text, label in rows
    ]


def spoken(
    number: int, text: str, output: str, rating: int, correction: str | None = None, **fields: object
) -> Said:
    signal = Signal(f"f{number:04}", f"user {number}", "user", rating, correction)
    one = Said(f"{number:04}", [{"role": "user", "content": text}], output, text, "train", (signal,))
    return replace(one, **fields)  # type: ignore[arg-type]


def heeded(said: list[Said], base: list[BaseExample]) -> Trust:
    return heed_neighbours(judge_raters(said, base, CONTRACT, 0.6), said, base, CONTRACT)


def test_a_correction_that_like_prompts_speak_against_waits_and_says_why() -> None:
    lie = spoken(1, "will it rain in madrid today", "weather", 1, "music")
    right = spoken(2, "play a song by oasis", "weather", 1, "music")
    trust = heeded([lie, right], shown())
    chosen = choose_corrections([lie, right], (), (), CONTRACT, Dataset(), (), trust)
    assert [one.inference_id for one in chosen.examples] == ["0002"]
    assert chosen.dropped[CONTRADICTED] == 1
    assert "speak against it" in chosen.waits["0001"] and "'weather'" in chosen.waits["0001"]
    facts = chosen.examples[0].why["neighbours"]
    assert facts["agree"] > facts["against"] and facts["voters"] == 10


def test_praise_that_like_prompts_speak_against_is_not_replayed_and_counted() -> None:
    wrong = spoken(1, "will it rain in madrid today", "music", 5)
    right = spoken(2, "will it rain in bergen today", "weather", 5)
    left_out: Counter[str] = Counter()
    replayed = choose_replay(
        [wrong, right],
        (),
        (),
        (),
        CONTRACT,
        Dataset(),
        ("replay",),
        heeded([wrong, right], shown()),
        left_out,
    )
    assert (
        not replayed and left_out.total() == 1
    )  # nothing is replayed beside no correction, but all are looked at


def test_a_label_that_hardly_anybody_has_yet_is_never_contradicted() -> None:
    first = spoken(1, "play a song by oasis out of the book", "music", 1, "book")
    assert not heeded([first], shown()).contradicted("f0001")


def test_one_rater_is_no_witness_for_what_the_same_one_says() -> None:
    lies = [spoken(n, f"will it rain in madrid today number {n}", "weather", 1, "music") for n in range(20)]
    alone = [replace(one, signals=(one.signals[0]._replace(rater="eve"),)) for one in lies]
    trust = heeded(alone, shown())
    assert all(trust.contradicted(one.signals[0].feedback_id) for one in alone)


def test_a_reviewers_word_is_not_judged() -> None:
    one = spoken(1, "will it rain in madrid today", "weather", 1, "music")
    reviewed = replace(one, resolution="corrected", reviewed_answer="music", reviewed_by="rita")
    trust = heeded([reviewed], shown())
    (example,) = choose_corrections([reviewed], (), (), CONTRACT, Dataset(), (), trust).examples
    assert example.source == "reviewer"


def test_nothing_far_away_and_nothing_on_the_evaluation_side_votes() -> None:
    far = spoken(1, "xylophone quartz", "weather", 1, "music")
    near = spoken(2, "will it rain in madrid today", "weather", 1, "music")
    assert "f0001" not in heeded([far, near], shown()).neighbours
    assert "f0002" not in heeded([near], shown("evaluation")).neighbours


def test_praise_is_not_believed_where_the_same_answer_to_like_prompts_was_complained_about() -> None:
    """Nobody has written what is right for such prompts yet; that the answer is wrong for them was said."""
    unknown = [spoken(n, f"open the door of the {city} office", "music", 1) for n, city in enumerate(CITIES)]
    false = spoken(100, "open the door of the madrid office", "music", 5)
    true = spoken(101, "play a song by oasis", "music", 5)
    trust = heeded([*unknown, false, true], shown())
    assert trust.contradicted("f0100") and not trust.contradicted("f0101")
    assert trust.neighbours["f0100"].denied == 1.0
    told = trust.neighbours["f0101"].facts
    assert "denied" not in told or told["denied"] < 0.2
    (rated,) = [one for one in choose_rated([false, true], (), (), trust) if one.source == "rated+"]
    assert rated.inference_id == "0101"


def test_complaints_about_another_answer_or_by_the_same_rater_deny_nothing() -> None:
    complaints = [
        spoken(n, f"open the door of the {city} office", "weather", 1) for n, city in enumerate(CITIES)
    ]
    praised = spoken(100, "open the door of the madrid office", "music", 5)
    assert not heeded([*complaints, praised], shown()).contradicted("f0100")
    same = [
        replace(one, output="music", signals=(one.signals[0]._replace(rater="user 100"),))
        for one in complaints
    ]
    assert not heeded([*same, praised], shown()).contradicted("f0100")


def test_some_complaints_among_praise_deny_nothing() -> None:
    said = [
        spoken(n, f"play the album of {city}", "music", 5 if n % 3 else 1) for n, city in enumerate(CITIES)
    ]
    trust = heeded(said, shown())
    denied = [found.denied for found in trust.neighbours.values()]
    assert denied and all(share is not None and 0 < share < 0.6 for share in denied)
    assert not any(trust.contradicted(one.signals[0].feedback_id) for one in said)


def test_of_many_words_the_newest_are_heard_and_complaints_count_no_more_than_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("feedback.datasets.neighbours._HEARD", 12)
    said = [
        spoken(n, f"play the album of {CITIES[n % 12]}", "music", 1 if n % 7 == 6 else 5) for n in range(120)
    ]
    trust = heeded(said, shown())
    denied = [found.denied for found in trust.neighbours.values() if found.denied is not None]
    assert len(denied) == 103 and max(denied) < 0.6 and 0.05 < sum(denied) / len(denied) < 0.35


def test_without_labels_or_weighing_nothing_is_judged() -> None:
    lie = spoken(1, "will it rain in madrid today", "weather", 1, "music")
    assert heed_neighbours(EVERYBODY, [lie], shown(), CONTRACT) is EVERYBODY
    prose = TaskContract()
    trust = judge_raters([lie], shown(), prose, 0.6)
    assert heed_neighbours(trust, [lie], shown(), prose) is trust
