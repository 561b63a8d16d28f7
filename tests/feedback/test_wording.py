"""What an answer's or a follow-up's wording gives away."""

from __future__ import annotations

from time import process_time

import pytest

from feedback.datasets.wording import circle_in, complaint_in, refusal_in


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I am so sorry – I cannot provide medical advice.",
        "Unfortunately, I am unable to assist with this request.",
        "I cannot fulfill this request.",
        "I can’t share that.",
        "As an AI language model, I cannot have opinions.",
        "  **I'm not able to discuss that topic.**",
        "Es tut mir leid, dabei kann ich nicht helfen.",
        "Je suis désolé, je ne peux pas répondre.",
        "Lo siento, no puedo ayudar con eso.",
    ],
)
def test_a_refusal_is_known_by_how_it_begins(text: str) -> None:
    assert refusal_in(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Sorry for the wait! Your parcel left this morning.",
        "You can't return it after 30 days.",
        'He said: "I cannot help you."',
        "I can help with that. " * 20 + "I'm sorry, but I can't help with that.",
        "I cannot see any charge on your card, so nothing was taken.",
        "The parcel cannot be delivered on Sunday.",
        "",
    ],
)
def test_what_only_sounds_like_a_refusal_is_none(text: str) -> None:
    assert refusal_in(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "No, that's not what I asked.",
        "that is wrong",
        "This isn't right, look again",
        "Wrong. It was Tuesday",
        "You misunderstood me",
        "no!",
        "Nein, das ist falsch.",
        "that still is wrong, it was still wrong: it is still wrong",
        "hmm that didn't work",
        "I didn't ask for a poem",
    ],
)
def test_a_complaint_is_known_by_its_words(text: str) -> None:
    assert complaint_in(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "No problem, thanks!",
        "Thanks, that is right.",
        "No worries. And on Sunday?",
        "What is wrong with my card?",
        "Is it not right to ask?",
        "Nothing else, thank you",
    ],
)
def test_what_only_sounds_like_a_complaint_is_none(text: str) -> None:
    assert complaint_in(text) is None


def test_phrases_of_an_operators_own_are_looked_for_too() -> None:
    assert refusal_in("Ich DARF das nicht beantworten", ["darf das nicht"]) == "darf das nicht"
    assert complaint_in("so ein Mist", ["", "mist"]) == "mist"


def test_an_answer_that_runs_in_circles_is_told_with_its_piece() -> None:
    found = circle_in("First of all: " + "we are on it and " * 10)
    assert found is not None and (found.times, found.share > 0.9) == (10, True)
    assert set(found.piece.split()) == {"we", "are", "on", "it", "and"}
    assert circle_in("ha" * 100) is not None and circle_in("は" * 100) is not None


def test_texts_that_repeat_a_little_do_not_run_in_circles() -> None:
    assert circle_in("no no no no no") is None
    assert circle_in("\n".join(f"- item {n}: in stock, ships on day {n * 7 % 31}" for n in range(40))) is None
    assert circle_in("We are on it. " * 3 + " ".join(f"word{n}" for n in range(60))) is None
    assert circle_in('{"intent": "refund", "urgency": "low"}') is None


def test_wording_takes_time_in_proportion_to_the_text() -> None:
    def seconds(size: int) -> float:
        texts = ["no " * size, "a" * size, "i'm sorry " * size, "x y " * (size // 2)]
        started = process_time()
        for text in texts:
            refusal_in(text), complaint_in(text), circle_in(text)
        return process_time() - started

    seconds(100)
    assert seconds(40_000) < 40 * max(seconds(4_000), 0.005)
