"""Paired gains by figure: each is the difference of the versions' figures, with the interval of `comparison`."""

from __future__ import annotations

import msgspec
import pytest

from feedback.datasets.cases import EvalCase
from feedback.datasets.contract import TaskContract
from feedback.storage.database import Database
from feedback.storage.tables import Cycle
from trainer.comparison import Comparison, Outcome
from trainer.gateway import Answer
from trainer.improvements import improved_scores, improvements
from trainer.metrics import Metrics, nearness

RIGHT = "the parcel is on its way"
CASES = [EvalCase(str(n), [], RIGHT) for n in range(30)]


def said(*texts: str) -> dict[str, Answer]:
    return {case.id: Answer(texts[n % len(texts)], "stop", 4, 9.0) for n, case in enumerate(CASES)}


def test_gains_are_the_difference_of_the_figures_and_have_their_interval() -> None:
    ours, theirs = said("the parcel is lost", "who knows", ""), said(RIGHT, "the parcel is on the way")
    found = improvements(CASES, ours, theirs, TaskContract())
    before, after = (Metrics.of(CASES, answers, TaskContract()) for answers in (ours, theirs))
    assert before.wording is not None and after.wording is not None
    assert before.valid_format is not None and after.valid_format is not None
    assert found.keys() == {"valid_format", "similarity", "token_f1", "rouge_l"}
    for metric in ("similarity", "token_f1", "rouge_l"):
        gained = getattr(after.wording, metric) - getattr(before.wording, metric)
        assert found[metric].difference == pytest.approx(gained) and gained > 0.3
        assert 0 < found[metric].low < gained < found[metric].high
    assert found["valid_format"].difference == pytest.approx(after.valid_format - before.valid_format)
    scores = [
        Outcome(
            case.id,
            nearness(RIGHT, ours[case.id].text).rouge_l,
            nearness(RIGHT, theirs[case.id].text).rouge_l,
        )
        for case in CASES
    ]
    assert found["rouge_l"] == Comparison.of(scores)


def test_what_one_case_gains_has_no_interval_and_can_be_kept(database: Database) -> None:
    ours, theirs = said("the parcel is lost"), said("the parcel is on the way")
    found = improvements(CASES[:1], ours, theirs, TaskContract())
    assert found["similarity"].difference > 0 and found["similarity"].interval is None
    kept = {"improvements": {"golden": msgspec.to_builtins(found)}}
    with database.session() as session:
        row = {"model": "assistant", "mode": "report", "requested_by": "test", "created": 1.0, "updated": 1.0}
        session.add(Cycle(id="one", result=kept, **row))
        session.commit()
    with database.reading() as session:
        back = session.get_one(Cycle, "one").result
    assert back is not None and back["improvements"]["golden"]["similarity"]["interval"] is None


def test_scores_are_paired_by_the_cases_that_both_have() -> None:
    found = improved_scores({"a": 0.5, "b": 1.0, "c": 0.25}, {"b": 0.5, "a": 1.0, "d": 0.0})
    assert (found.n, found.fixes, found.regressions, found.difference) == (2, 1, 1, 0.0)
