"""What users do next says something about the last answer."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.datasets.follow_ups import Sign, Turn, signs_in
from feedback.datasets.slowness import pace_of, usual_pace
from feedback.settings import Triage

FIRST = "Where is my parcel number 12?"


def turn(name: str, created: float, prompt: str = FIRST, output: str = "a", **fields: Any) -> Turn:
    plain: dict[str, Any] = {"asker": "ann", "conversation": None, "answered": created + 1}
    return Turn(inference_id=name, created=created, prompt=prompt, output=output, **(plain | fields))


def signs(*turns: Turn, **rules: Any) -> list[Sign]:
    return list(signs_in(turns, Triage(**rules)))


def test_a_question_asked_again_within_minutes_speaks_of_the_first_answer() -> None:
    (found,) = signs(turn("one", 0), turn("two", 60, "where is my parcel, number 12", "b"))
    assert (found.inference_id, found.reason, found.confidence) == ("one", "asked_again", 0.5)
    assert "after 59 s" in found.evidence and "where is my parcel, number 12" in found.evidence


def test_the_same_answer_again_says_less() -> None:
    (found,) = signs(turn("one", 0), turn("two", 60))
    assert found.confidence == 0.3


@pytest.mark.parametrize(
    "next_",
    [
        turn("two", 0.5),  # before the first answer was there: a second click
        turn("two", 700),  # much later
        turn("two", 60, asker="bob"),
        turn("two", 60, "And when are you open?"),
    ],
)
def test_what_is_not_the_same_user_asking_the_same_soon_is_no_sign(next_: Turn) -> None:
    assert signs(turn("one", 0), next_) == []


def test_the_minutes_and_the_likeness_are_settings() -> None:
    late = turn("two", 700)
    assert len(signs(turn("one", 0), late, within_minutes=15)) == 1
    near = turn("two", 60, "Where is my parcel now, if it has the number 12?")
    assert (
        signs(turn("one", 0), near) == [] and len(signs(turn("one", 0), near, asked_again_likeness=0.3)) == 1
    )


def test_a_question_may_come_between() -> None:
    found = signs(turn("one", 0), turn("two", 60, "Are you open?"), turn("three", 120))
    assert [sign.inference_id for sign in found] == ["one"]


def test_a_program_that_asks_all_the_time_asks_nothing_again() -> None:
    assert signs(*(turn(str(n), n * 2) for n in range(100))) == []
    assert len(signs(*(turn(str(n), n * 20) for n in range(20)))) == 19


def test_a_complaint_counts_in_the_same_conversation_and_right_after() -> None:
    def talk(name: str, created: float, prompt: str, conversation: str | None = "c") -> Turn:
        return turn(name, created, prompt, conversation=conversation)

    (found,) = signs(talk("one", 0, "What is it?"), talk("two", 60, "No, that is wrong."))
    assert (found.inference_id, found.reason, found.confidence) == ("one", "negative_follow_up", 0.7)
    assert signs(talk("one", 0, "What is it?"), talk("two", 60, "No, that is wrong.", "d")) == []
    assert signs(talk("one", 0, "What is it?", None), talk("two", 60, "That is wrong.", None)) == []
    found_between = signs(
        talk("one", 0, "What is it?"), talk("two", 60, "And that?"), talk("three", 90, "That is wrong.")
    )
    assert [sign.inference_id for sign in found_between] == ["two"]
    pattern = talk("one", 0, "That is wrong."), talk("two", 60, "That is wrong.")
    assert [sign.reason for sign in signs(*pattern)] == ["asked_again"]


def test_the_usual_pace_is_hardly_moved_by_the_slow_ones() -> None:
    quick = [pace_of(200.0 + n, 10) for n in range(90)]
    slow = [pace_of(9000.0, 10)] * 10
    pace = usual_pace([one for one in quick + slow if one is not None])
    assert pace is not None and 20 < pace.usual_ms < 30
    assert pace.deviations(slow[0] or 0) > 10
    assert usual_pace([3.0] * 49) is None
    steady = usual_pace([3.0] * 50)
    assert steady is not None and steady.deviations(3.2) == pytest.approx(2.0)


def test_short_answers_have_no_pace() -> None:
    assert pace_of(100.0, 7) is None and pace_of(100.0, None) is None and pace_of(0.0, 9) is None
