"""The parts of the offline loop that its figures rest on."""

from __future__ import annotations

import random

from feedback.datasets.said import Said, Signal
from feedback.settings import Dataset
from tests.bench.linear_svm import LinearSvm
from tests.bench.loop_offline import Traffic

_TEXTS = ["play some jazz", "play a song", "rain in paris", "will rain fall"]
_LABELS = ["music", "music", "weather", "weather"]


def test_the_classifier_tells_labels_apart_by_their_words() -> None:
    fitted = LinearSvm(_TEXTS, _LABELS)
    assert fitted.predict(["play it", "no rain"]) == ["music", "weather"]


def test_a_row_without_weight_teaches_nothing() -> None:
    texts, labels = [*_TEXTS, "play", "play", "play"], [*_LABELS, "weather", "weather", "weather"]
    assert LinearSvm(texts, labels).predict(["play"]) == ["weather"]
    assert LinearSvm(texts, labels, [1.0] * 4 + [0.0] * 3).predict(["play"]) == ["music"]


def test_the_reference_has_praised_and_corrected_answers_of_the_training_side_with_true_labels() -> None:
    traffic = Traffic(random.Random(0), Dataset())
    cases = [
        ("praised", "train", 5, None),
        ("corrected", "train", 1, "right"),
        ("complained", "train", 1, None),
        ("judging", "evaluation", 5, None),
        ("between", None, 5, None),
    ]
    for text, side, rating, correction in cases:
        signal = Signal(f"f-{text}", "ann", "user", rating, correction)
        messages = [{"role": "user", "content": text}]
        traffic.said.append(Said(text, messages, "given", text, side, (signal,)))  # type: ignore[arg-type]
        traffic.truth[text] = f"truth of {text}"
    assert traffic.same_cases() == [("corrected", "truth of corrected"), ("praised", "truth of praised")]
