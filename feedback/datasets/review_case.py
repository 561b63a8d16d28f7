"""One failure case as a reviewer needs it: what was asked and answered, what was said, what is proposed, what differs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from sqlmodel import Session

from feedback.datasets.asked import Asked, asked_of
from feedback.datasets.believed import Belief
from feedback.datasets.candidates import candidates_of
from feedback.datasets.contract import TaskContract, same_answer
from feedback.datasets.differences import Part, word_difference
from feedback.datasets.failures import FailureContext, read_failure
from feedback.datasets.review_queue import Waiting
from feedback.datasets.tool_calls import shown
from feedback.datasets.votes import REVIEWER
from feedback.settings import Settings


class Remark(Struct):
    """What somebody said about the answer."""

    rater: str
    source: str
    rating: int | None
    comment: str | None
    created: datetime


class Proposal(Struct, kw_only=True):
    """What might be the right answer."""

    candidate_id: str | None
    """None for what a person wrote with their feedback."""
    source: str
    """`demonstration`, `reviewer`, `teacher` or `best-of-n`."""
    origin: str
    """Who or what wrote it."""
    answer: str
    checks: list[dict[str, Any]]
    """`[{check, passed, told}]`."""
    passed: bool
    difference: list[Part]
    """From the answer that failed to this one."""


class ReviewCase(Struct, kw_only=True):
    """Everything on one case."""

    id: str
    inference_id: str
    model: str
    version: str | None
    created: datetime
    reasons: list[dict[str, Any]]
    waits: str | None
    value: float
    """What the queue is ordered by: confidence, times belief in who complained, more where others are like it."""
    alike: int
    opinions: int = 0
    """Reviewers who decided on it, where two must agree; what they decided is not shown."""
    stored: bool
    """False where the texts were not kept, or the inference is gone."""
    messages: list[dict[str, Any]]
    """What was asked: roles and texts, calls of tools as JSON."""
    answer: str
    feedback: list[Remark]
    proposals: list[Proposal]
    """Those that pass their checks first: people's before a teacher's before the model's own."""


def read_case(session: Session, place: Waiting, settings: Settings, belief: Belief) -> ReviewCase:
    """A case of the queue. Raises `NotFoundError`."""
    found = read_failure(session, place.failure_id)
    inference, failure = found.inference, found.failure
    answer = (inference.output or "") if inference else ""
    return ReviewCase(
        id=failure.id,
        inference_id=failure.inference_id,
        model=failure.model,
        version=inference.version if inference else None,
        created=_moment(inference.created if inference else failure.created),
        reasons=failure.reasons,
        waits=failure.waits,
        value=round(place.value, 3),
        alike=place.alike,
        stored=inference is not None and inference.stored,
        messages=_messages(found),
        answer=answer,
        feedback=[
            Remark(one.rater, one.source, one.rating, one.comment, _moment(one.created))
            for one in found.feedback
        ],
        proposals=_proposals(session, found, answer, settings, belief),
    )


def _messages(found: FailureContext) -> list[dict[str, Any]]:
    if found.inference is None:
        return []
    asked = _asked(found)
    return (
        shown(asked.messages)
        if asked.messages
        else [{"role": "user", "content": found.inference.prompt or ""}]
    )


def _asked(found: FailureContext) -> Asked:
    return (found.inference and asked_of(found.inference.request)) or Asked([])


def _proposals(
    session: Session, found: FailureContext, answer: str, settings: Settings, belief: Belief
) -> list[Proposal]:
    configured = settings.model_named(found.failure.model)
    contract = TaskContract(None) if configured is None else TaskContract.from_settings(configured)
    asked = _asked(found)
    written = sorted(
        (one for one in found.feedback if one.correction),
        key=lambda one: (one.source != REVIEWER, -belief.share(one.rater)),
    )
    proposals = [
        _proposal(
            answer,
            None,
            "reviewer" if one.source == REVIEWER else "demonstration",
            one.rater,
            (one.correction or "").strip(),
            _checks((one.correction or "").strip(), answer, contract, asked),
        )
        for one in written
    ]
    candidates = [
        row for row in candidates_of(session, found.failure.inference_id) if row.state != "rejected"
    ]
    proposals += [
        _proposal(answer, row.id, row.source, row.origin, row.answer, row.checks)
        for row in sorted(candidates, key=lambda row: row.source != "teacher")
        if row.answer  # an erased one is empty
    ]
    return sorted(proposals, key=lambda one: not one.passed)


def _proposal(
    before: str,
    candidate_id: str | None,
    source: str,
    origin: str,
    answer: str,
    checks: list[dict[str, Any]],
) -> Proposal:
    return Proposal(
        candidate_id=candidate_id,
        source=source,
        origin=origin,
        answer=answer,
        checks=checks,
        passed=all(check["passed"] for check in checks),
        difference=word_difference(before, answer),
    )


def _checks(answer: str, failed: str, contract: TaskContract, asked: Asked) -> list[dict[str, Any]]:
    """What can be checked of a text that a person wrote; candidates bring what their proposer checked."""
    problem = contract.problem(answer, asked.messages or None, asked.tools)
    same = bool(failed) and same_answer(answer, failed)
    return [
        {
            "check": "task contract",
            "passed": problem is None,
            "told": "it meets the task contract" if problem is None else f"it {problem}",
        },
        {
            "check": "another answer",
            "passed": not same,
            "told": "it is the answer that failed" if same else "it differs from the answer that failed",
        },
    ]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
