"""A version's figures over a suite: how many answers are right, how near the others come, by class and slice, and how quick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from msgspec import Struct
from rapidfuzz.distance import Indel, LCSseq

from feedback.datasets.cases import EvalCase
from feedback.datasets.contract import TaskContract, answer_key
from trainer.gateway import Answer
from trainer.scoring import Answers, passed

_MOST_CLASSES = 200
_LEAST_IN_FACET, _MOST_FACETS = 5, 40


class ClassFigures(Struct, frozen=True):
    """One kind of answer, as a classifier's figures; null where nothing was or should have been of it."""

    n: int
    """Cases whose right answer is of it."""
    precision: float | None
    recall: float | None
    f1: float | None


class SliceFigures(Struct, frozen=True):
    """The cases of one slice."""

    n: int
    accuracy: float


class Wording(Struct, frozen=True):
    """How near answers come to the right ones in their words, 0..1: for free text, where few are equal to the letter."""

    similarity: float
    """Mean of the share of characters that stay (normalised indel similarity)."""
    token_f1: float
    """Mean over answers of the harmonic mean of precision and recall of words (as SQuAD's)."""
    rouge_l: float
    """Mean F-measure of the longest common subsequence of words (Lin 2004)."""
    bleu: float
    """Over the whole suite, sacrebleu's default."""
    chrf: float
    """Over the whole suite, sacrebleu's default (chrF2)."""


class Nearness(NamedTuple):
    """The parts of `Wording` that each answer has by itself."""

    similarity: float
    token_f1: float
    rouge_l: float


class Metrics(Struct, frozen=True):
    """How one version did on one suite; shares are 0..1 and null without cases."""

    n: int
    accuracy: float | None = None
    """Exact match, see `scoring.matches`."""
    valid_format: float | None = None
    ms_per_request: float | None = None
    """Median, as measured when each case was first asked: for reading, the gate measures its own."""
    ms_per_token: float | None = None
    macro_f1: float | None = None
    """Mean of the classes' F1; null without a contract that tells classes."""
    classes: dict[str, ClassFigures] = {}
    slices: dict[str, SliceFigures] = {}
    """By the cases' own slice."""
    facets: dict[str, SliceFigures] = {}
    """By metadata of the requests, and by what was wrong with failures; those of at least five cases, the largest forty."""
    wording: Wording | None = None

    @classmethod
    def of(cls, cases: Sequence[EvalCase], answers: Answers, contract: TaskContract) -> Metrics:
        """Figures over `cases`, which must all have been answered."""
        given = [answers[case.id] for case in cases]
        if not given:
            return cls(0)
        classes = _classes(cases, answers, contract)
        f1 = [one.f1 for one in classes.values() if one.f1 is not None and one.n]
        return cls(
            n=len(cases),
            accuracy=sum(passed(case, answers) for case in cases) / len(cases),
            valid_format=sum(
                contract.valid(answer.text, case.messages, case.tools)
                for case, answer in zip(cases, given, strict=True)
            )
            / len(cases),
            ms_per_request=median(answer.latency_ms for answer in given),
            ms_per_token=_per_token(given),
            macro_f1=fmean(f1) if f1 else None,
            classes=classes,
            slices=_slices(cases, answers),
            facets=_facets(cases, answers),
            wording=wording([case.answer for case in cases], [answer.text for answer in given]),
        )


def wording(right: Sequence[str], given: Sequence[str]) -> Wording:
    """Both in the same order; neither empty."""
    from sacrebleu.metrics.bleu import BLEU  # 0.2 s to load, which only evaluations need
    from sacrebleu.metrics.chrf import CHRF

    near = [nearness(one, other) for one, other in zip(right, given, strict=True)]
    return Wording(
        similarity=fmean(one.similarity for one in near),
        token_f1=fmean(one.token_f1 for one in near),
        rouge_l=fmean(one.rouge_l for one in near),
        bleu=BLEU().corpus_score(list(given), [list(right)]).score / 100,
        chrf=CHRF().corpus_score(list(given), [list(right)]).score / 100,
    )


def nearness(right: str, given: str) -> Nearness:
    """Of one answer."""
    one, other = right.lower().split(), given.lower().split()
    return Nearness(
        similarity=Indel.normalized_similarity(right, given),
        token_f1=_f1(sum((Counter(one) & Counter(other)).values()), one, other),
        rouge_l=_f1(LCSseq.similarity(one, other), one, other),
    )


def _f1(common: int, one: Sequence[str], other: Sequence[str]) -> float:
    if not one or not other:
        return float(one == other)
    return 2 * common / (len(one) + len(other))


def _classes(cases: Sequence[EvalCase], answers: Answers, contract: TaskContract) -> dict[str, ClassFigures]:
    """By kind of answer. An answer counts for its kind's recall only where it is right: the kind alone may not be all."""
    right: Counter[str] = Counter()
    said: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for case in cases:
        kind = contract.slice_of(case.answer)
        if kind is None:
            continue
        right[kind] += 1
        answered = contract.slice_of(answers[case.id].text)
        if answered is not None:
            said[answered] += 1
        hits[kind] += answered == kind and passed(case, answers)
    if len(right) > _MOST_CLASSES:
        return {}
    return {kind: _figures(right[kind], said[kind], hits[kind]) for kind in sorted(right | said)}


def _figures(right: int, said: int, hits: int) -> ClassFigures:
    return ClassFigures(
        n=right,
        precision=hits / said if said else None,
        recall=hits / right if right else None,
        f1=2 * hits / (right + said) if right + said else None,
    )


def _slices(cases: Sequence[EvalCase], answers: Answers) -> dict[str, SliceFigures]:
    by_slice: dict[str, list[bool]] = {}
    for case in cases:
        if case.slice is not None:
            by_slice.setdefault(case.slice, []).append(passed(case, answers))
    return {name: SliceFigures(len(hits), sum(hits) / len(hits)) for name, hits in sorted(by_slice.items())}


def _facets(cases: Sequence[EvalCase], answers: Answers) -> dict[str, SliceFigures]:
    by_facet: dict[str, list[bool]] = {}
    for case in cases:
        for facet in case.facets:
            by_facet.setdefault(facet, []).append(passed(case, answers))
    told = {name: hits for name, hits in by_facet.items() if len(hits) >= _LEAST_IN_FACET}
    largest = sorted(told, key=lambda name: (-len(told[name]), name))[:_MOST_FACETS]
    return {
        name: SliceFigures(len(told[name]), sum(told[name]) / len(told[name])) for name in sorted(largest)
    }


def _per_token(given: Sequence[Answer]) -> float | None:
    paces = [answer.latency_ms / answer.completion_tokens for answer in given if answer.completion_tokens]
    return median(paces) if paces else None


def agreement(samples: Mapping[str, Sequence[str]], contract: TaskContract) -> dict[str, float]:
    """Consistency by case: the share of its samples that say what most of them say (self-consistency's vote)."""
    return {
        case: Counter(_said(text, contract) for text in given).most_common(1)[0][1] / len(given)
        for case, given in samples.items()
        if given
    }


def _said(text: str, contract: TaskContract) -> str:
    return answer_key(text) if contract.restricts else " ".join(text.lower().split())
