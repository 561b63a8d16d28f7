"""A version's figures over a suite, against examples worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from feedback.datasets.answer_check import AnswerCheck
from feedback.datasets.cases import EvalCase, facets_of
from feedback.datasets.contract import TaskContract
from trainer.gateway import Answer
from trainer.metrics import ClassFigures, Metrics, agreement, wording
from trainer.scoring import validity

LABELS = TaskContract(labels=["billing", "refund", "other"])


def judged(
    pairs: list[tuple[str, str]], contract: TaskContract, slices: list[str | None] | None = None
) -> Metrics:
    """Figures of `(right answer, given answer)` pairs."""
    named = slices or [None] * len(pairs)
    cases = [EvalCase(str(n), [], right, named[n]) for n, (right, _) in enumerate(pairs)]
    answers = {str(n): Answer(given, "stop", 2, 10.0 * (n + 1)) for n, (_, given) in enumerate(pairs)}
    return Metrics.of(cases, answers, contract)


def test_classes_have_the_figures_of_a_confusion_matrix() -> None:
    pairs = [("billing", "billing")] * 6 + [("billing", "refund")] * 2 + [("refund", "refund")] * 3
    pairs += [("refund", "billing")] * 1 + [("other", "who knows")] * 2
    found = judged(pairs, LABELS)
    assert found.accuracy == pytest.approx(9 / 14)
    assert found.valid_format == pytest.approx(12 / 14)
    assert found.classes == {
        "billing": ClassFigures(8, 6 / 7, 6 / 8, 12 / 15),
        "other": ClassFigures(2, None, 0.0, 0.0),
        "refund": ClassFigures(4, 3 / 5, 3 / 4, 6 / 9),
    }
    assert found.macro_f1 == pytest.approx((12 / 15 + 0 + 6 / 9) / 3)
    assert (found.ms_per_request, found.ms_per_token) == (75.0, 37.5)


def echoes(answer: str, messages: Sequence[dict[str, str]] | None) -> str | None:
    """A check of an operator's: an answer repeats what was asked. It lets pass what it cannot see."""
    return None if messages is None or answer == messages[-1]["content"] else "does not repeat the question"


def test_a_check_of_the_messages_judges_the_gates_validity_and_the_metrics() -> None:
    contract = TaskContract(check=AnswerCheck(f"{__name__}:echoes"))
    cases = [EvalCase(text, [{"role": "user", "content": text}], text) for text in ("yes", "no")]
    ours = {text: Answer(text, "stop", 1, 1.0) for text in ("yes", "no")}
    theirs = {text: Answer("yes", "stop", 1, 1.0) for text in ("yes", "no")}
    paired = validity(cases, ours, theirs, contract)
    assert [(one.champion, one.challenger) for one in paired] == [(1, 1), (1, 0)]
    assert (
        Metrics.of(cases, ours, contract).valid_format,
        Metrics.of(cases, theirs, contract).valid_format,
    ) == (
        1.0,
        0.5,
    )


def test_slices_have_their_own_accuracy() -> None:
    found = judged([("a", "a"), ("b", "a"), ("c", "c")], TaskContract(), ["shop", "shop", None])
    assert {name: (one.n, one.accuracy) for name, one in found.slices.items()} == {"shop": (2, 0.5)}
    assert found.classes == {} and found.macro_f1 is None


def test_metadata_and_reasons_of_failures_have_figures_where_there_are_five_cases() -> None:
    cases = [EvalCase(str(n), [], "a", facets=facets_of({"channel": "mail"}, ())) for n in range(6)]
    reason = [{"reason": "low_rating"}]
    cases += [EvalCase(str(n), [], "a", facets=facets_of({"channel": "web"}, reason)) for n in range(6, 10)]
    cases.append(EvalCase("10", [], "a", facets=facets_of({"note": "x" * 100, "tags": ["one"]}, reason)))
    answers = {case.id: Answer("a" if int(case.id) % 2 else "b", "stop", 1, 1.0) for case in cases}
    found = Metrics.of(cases, answers, TaskContract()).facets
    told = {name: (one.n, one.accuracy) for name, one in found.items()}
    assert told == {"channel=mail": (6, 0.5), "failure=low_rating": (5, 0.4)}


def test_wording_is_what_the_published_measures_say() -> None:
    found = wording(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert found.token_f1 == pytest.approx(2 * 5 / 12)
    assert found.rouge_l == pytest.approx(2 * 5 / 12)
    assert found.bleu == pytest.approx(0.537285, abs=1e-6)  # sacrebleu 2.6 on its command line
    assert found.chrf == pytest.approx(0.659797, abs=1e-6) and 0.85 < found.similarity < 0.95
    same, nothing = wording(["so it is"], ["so it is"]), wording(["so it is"], [""])
    assert (same.token_f1, same.rouge_l, same.similarity, same.chrf) == (1, 1, 1, pytest.approx(1))
    assert (nothing.token_f1, nothing.rouge_l, nothing.bleu, nothing.similarity) == (0, 0, 0, 0)


def test_the_order_of_words_counts_for_rouge_and_not_for_token_f1() -> None:
    found = wording(["one two three four"], ["four three two one"])
    assert (found.token_f1, found.rouge_l) == (1.0, 0.25)


def test_without_cases_there_are_no_figures() -> None:
    found = judged([], LABELS)
    assert (found.n, found.accuracy, found.wording, found.macro_f1) == (0, None, None, None)


def test_samples_agree_as_far_as_they_say_the_same() -> None:
    samples = {"a": ["refund", " refund ", "billing", "refund"], "b": ["other"] * 4, "c": []}
    assert agreement(samples, LABELS) == {"a": 3 / 4, "b": 1.0}
    assert agreement({"a": ["Yes,  indeed", "yes, indeed", "no"]}, TaskContract()) == {"a": 2 / 3}
    assert agreement({}, LABELS) == {}
