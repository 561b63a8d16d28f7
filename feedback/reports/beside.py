"""Two versions side by side, from the answers that evaluations kept: which confirmed cases one passes and the other fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from sqlmodel import Session, col, select

from feedback.datasets.answer_match import matches
from feedback.datasets.case_hash import case_hash
from feedback.datasets.chat import last_user_text
from feedback.paired import tango_interval
from feedback.registry.versions import list_versions
from feedback.storage.tables import Case, EvaluationResult, ModelVersion

BASE = "base"
SHOWN = 20
"""Cases shown that were fixed, and that were broken."""


class Pair(NamedTuple):
    """One case with both answers."""

    id: str
    suite: str
    slice: str | None
    critical: bool
    prompt: str
    expected: str
    before: str
    after: str


class Beside(NamedTuple):
    """What both made of the same cases of one suite."""

    suite: str
    cases: int
    passed_before: int
    passed_after: int
    fixes: int
    regressions: int
    interval: tuple[float, float]
    """Of the difference in the share passed, at 95 % (Tango)."""
    ms_before: float
    ms_after: float
    """Medians of an answer's time, in milliseconds."""


class Compared(NamedTuple):
    """One row a suite, and the cases on which the two differ. No row: no case that both have answered."""

    suites: list[Beside]
    fixed: list[Pair]
    broken: list[Pair]
    answered: tuple[int, int]
    """Confirmed cases that each has answered."""


def compare_versions(
    session: Session,
    model: str,
    before: str,
    after: str,
    max_tokens: int,
    form: Mapping[str, Any] | None = None,
) -> Compared:
    """By the confirmed cases that both have answered with `max_tokens`, held to `form`, as evaluations ask. A version's number,
    or `base`."""
    known = {one.number: one for one in list_versions(session, model)}
    cases = session.exec(
        select(Case).where(Case.model == model, Case.state == "confirmed").order_by(col(Case.id))
    ).all()
    revisions = _base_revisions(known, before, after)
    first, second = (_answers(session, model, number) for number in (before, after))
    found: dict[str, list[tuple[Case, EvaluationResult, EvaluationResult]]] = {}
    counted = [0, 0]
    for case in cases:
        one = _of(first, case, before, revisions, max_tokens, form)
        other = _of(second, case, after, revisions, max_tokens, form)
        counted[0] += one is not None
        counted[1] += other is not None
        if one is not None and other is not None:
            found.setdefault(_name(case, before, after), []).append((case, one, other))
    fixed: list[Pair] = []
    broken: list[Pair] = []
    suites = []
    for suite, rows in found.items():
        suites.append(_suite(suite, rows))
        for case, one, other in rows:
            was, now = (matches(case.answer or "", answer.output) for answer in (one, other))
            if was != now:
                (fixed if now else broken).append(_pair(suite, case, one, other))
    broken.sort(key=lambda pair: not pair.critical)
    return Compared(suites, fixed[:SHOWN], broken[:SHOWN], (counted[0], counted[1]))


def _name(case: Case, *numbers: str) -> str:
    """A case's suite, where its answer is not that for which one of the two was praised: on these it is right by choice."""
    return f"praised of {case.version}" if case.version in numbers else case.suite


def _base_revisions(known: dict[str, ModelVersion], *numbers: str) -> list[str]:
    """Revisions of the base that may have answered: that which the other version was trained on first."""
    named = [known[number].base_revision for number in numbers if number in known]
    return list(dict.fromkeys(named + [one.base_revision for one in known.values()]))


def _answers(session: Session, model: str, number: str) -> dict[str, EvaluationResult]:
    rows = session.exec(
        select(EvaluationResult).where(EvaluationResult.model == model, EvaluationResult.version == number)
    )
    return {row.case_hash: row for row in rows}


def _of(
    answers: dict[str, EvaluationResult],
    case: Case,
    number: str,
    revisions: Sequence[str],
    max_tokens: int,
    form: Mapping[str, Any] | None,
) -> EvaluationResult | None:
    for revision in revisions if number == BASE else [""]:
        found = answers.get(case_hash(case.messages, max_tokens, revision, case.tools, form))
        if found is not None:
            return found
    return None


def _suite(suite: str, rows: Sequence[tuple[Case, EvaluationResult, EvaluationResult]]) -> Beside:
    passed = [
        (matches(case.answer or "", one.output), matches(case.answer or "", other.output))
        for case, one, other in rows
    ]
    fixes = sum(now and not was for was, now in passed)
    regressions = sum(was and not now for was, now in passed)
    return Beside(
        suite,
        len(rows),
        sum(was for was, _ in passed),
        sum(now for _, now in passed),
        fixes,
        regressions,
        tango_interval(fixes, regressions, len(rows)),
        median(one.latency_ms for _, one, _ in rows),
        median(other.latency_ms for _, _, other in rows),
    )


def _pair(suite: str, case: Case, one: EvaluationResult, other: EvaluationResult) -> Pair:
    return Pair(
        case.id,
        suite,
        case.slice,
        case.critical,
        last_user_text(case.messages),
        case.answer or "",
        one.output,
        other.output,
    )
