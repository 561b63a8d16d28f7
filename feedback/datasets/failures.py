"""Failure cases in the record: found by triage, waiting in quarantine, resolved by a correction or a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, func, or_, select

from feedback.datasets.contract import TaskContract, same_answer
from feedback.datasets.triage import reasons_for
from feedback.datasets.votes import believed
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.settings import Settings, Triage
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Failure, Feedback, Inference

_STATES = {"correct": "corrected", "accept": "accepted", "dismiss": "dismissed"}
_CHUNK = 500


class Heard(NamedTuple):
    """One rater's current word on an inference."""

    rater: str
    source: str
    rating: int | None
    answer: str
    """The correction; empty where there is none."""
    created: float = 0.0


class Finding(NamedTuple):
    """What triage makes of one inference."""

    reasons: list[dict[str, Any]]
    state: str
    correction: str | None
    by: str | None


def triage_model(session: Session, model: str, settings: Settings, now: datetime) -> int:
    """Find the model's failure cases among its production answers; returns how many are new or have changed.

    Looks closely only at what somebody complained about, at answers that are out of form, and at cases still open:
    the rest is left to the database. What a person resolved stays as it was resolved.
    """
    configured = settings.model_named(model)
    contract = TaskContract(None) if configured is None else TaskContract.from_settings(configured)
    heard = _heard(session, model)
    low = settings.triage.low_rating
    suspects = {
        inference_id
        for inference_id, words in heard.items()
        if any(word.answer or (word.rating is not None and word.rating <= low) for word in words)
    }
    suspects |= _out_of_form(session, model, contract)
    known = {row.inference_id: row for row in session.exec(select(Failure).where(Failure.model == model))}
    closed = {inference_id for inference_id, row in known.items() if row.resolved is not None}
    changed = 0
    for inference_id, output, finish_reason in _answers(session, (suspects | known.keys()) - closed):
        words = heard.get(inference_id, [])
        found = _judge(output, finish_reason, words, contract, settings.triage)
        row = known.get(inference_id)
        if row is not None:
            found = _as_curated(row, found, words)
        if row is None and found.reasons:
            session.add(
                Failure(
                    id=new_id(now),
                    inference_id=inference_id,
                    model=model,
                    created=now.timestamp(),
                    reasons=found.reasons,
                    state=found.state,
                    correction=found.correction,
                    resolved_by=found.by,
                )
            )
            changed += 1
        elif row is not None and found != (row.reasons, row.state, row.correction, row.resolved_by):
            row.reasons, row.state, row.correction, row.resolved_by = found
            session.add(row)
            changed += 1
    session.flush()
    return changed


def _judge(
    output: str | None,
    finish_reason: str | None,
    words: Sequence[Heard],
    contract: TaskContract,
    settings: Triage,
) -> Finding:
    """Reasons and state of one inference, by what is known now; `resolved` is never triage's to set."""
    reasons = reasons_for(
        output,
        finish_reason,
        [word.rating for word in words if word.rating is not None],
        [word.answer for word in words if word.answer],
        contract,
        settings,
    )
    shown = [reason.shown() for reason in reasons]
    if not shown:
        return Finding(shown, "dismissed", None, "triage")  # its rater has taken the complaint back
    offers = [
        word
        for word in words
        if word.answer
        and contract.valid(word.answer)
        and (output is None or not same_answer(word.answer, output))
    ]
    agreed = believed(offers)
    if agreed is None:
        return Finding(shown, "quarantine", None, None)
    return Finding(shown, "corrected", agreed.answer.strip(), agreed.rater)


def _as_curated(row: Failure, found: Finding, words: Sequence[Heard]) -> Finding:
    """Curation knows more of whom to believe: what it set stands until somebody says more about the answer."""
    if row.curated is None or any(word.created > row.curated for word in words):
        return found
    return found._replace(state=row.state, correction=row.correction, by=row.resolved_by)


def _production(model: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(Inference.model) == model,
        col(Inference.purpose) == "production",
        col(Inference.status) == 200,
    )


def _heard(session: Session, model: str) -> dict[str, list[Heard]]:
    """What stands said about the model's production answers, oldest first."""
    heard: dict[str, list[Heard]] = defaultdict(list)
    query = (
        select(  # type: ignore[call-overload]
            Feedback.inference_id,
            Feedback.rater,
            Feedback.source,
            Feedback.rating,
            Feedback.correction,
            Feedback.created,
        )
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(*_production(model), col(Feedback.current))
        .order_by(col(Feedback.id))
    )
    for inference_id, rater, source, rating, correction, created in session.exec(query):
        heard[inference_id].append(Heard(rater, source, rating, correction or "", created))
    return heard


def _out_of_form(session: Session, model: str, contract: TaskContract) -> set[str]:
    """Answers that are empty, cut off or against the schema. Each distinct answer is judged once."""
    stored = (*_production(model), col(Inference.stored))
    output = col(Inference.output)
    cut = or_(col(Inference.finish_reason) == "length", output.is_(None), func.trim(output, " \t\r\n") == "")
    found = set(session.exec(select(Inference.id).where(*stored, cut)))
    if contract.schema is None:
        return found
    distinct = session.exec(select(Inference.output).where(*stored, output.is_not(None)).distinct())
    wrong = [text for text in distinct if text is not None and not contract.valid(text)]
    for start in range(0, len(wrong), _CHUNK):
        found.update(
            session.exec(select(Inference.id).where(*stored, output.in_(wrong[start : start + _CHUNK])))
        )
    return found


def _answers(session: Session, identifiers: Collection[str]) -> Iterator[tuple[str, str | None, str | None]]:
    """Id, output (None where it was not stored) and finish reason, oldest first."""
    ordered = sorted(identifiers)
    for start in range(0, len(ordered), _CHUNK):
        query = (
            select(Inference.id, Inference.output, Inference.finish_reason, Inference.stored)
            .where(col(Inference.id).in_(ordered[start : start + _CHUNK]))
            .order_by(col(Inference.id))
        )
        for identifier, output, finish_reason, stored in session.exec(query).all():
            yield identifier, (output or "") if stored else None, finish_reason


class FailureContext(NamedTuple):
    """What a failure case is about. The inference is None where the record has lost it."""

    failure: Failure
    inference: Inference | None
    feedback: list[Feedback]
    """What stands said about the answer, oldest first."""


def read_failure(session: Session, identifier: str) -> FailureContext:
    """A failure case with its inference and feedback. Raises `NotFoundError`."""
    row = session.get(Failure, identifier)
    if row is None:
        raise _unknown(identifier)
    said = (
        select(Feedback)
        .where(Feedback.inference_id == row.inference_id, col(Feedback.current))
        .order_by(col(Feedback.id))
    )
    return FailureContext(row, session.get(Inference, row.inference_id), list(session.exec(said)))


def exchanges(session: Session, rows: Sequence[Failure]) -> dict[str, tuple[str | None, str | None]]:
    """Last prompt and answer of each failure case, by inference id; None for what was not stored."""
    found: dict[str, tuple[str | None, str | None]] = {}
    wanted = [row.inference_id for row in rows]
    for start in range(0, len(wanted), _CHUNK):
        query = select(Inference.id, Inference.prompt, Inference.output).where(
            col(Inference.id).in_(wanted[start : start + _CHUNK])
        )
        found |= {identifier: (prompt, output) for identifier, prompt, output in session.exec(query)}
    return found


def list_failures(
    session: Session, model: str | None, state: str | None, limit: int, cursor: str | None
) -> Page[Failure]:
    """Failure cases, newest first."""
    query = select(Failure)
    if model is not None:
        query = query.where(Failure.model == model)
    if state is not None:
        query = query.where(Failure.state == state)
    return newest_first(session, query, Failure, limit, cursor)


def resolve_failure(
    session: Session,
    identifier: str,
    action: Literal["correct", "accept", "dismiss"],
    correction: str | None,
    by: str,
    settings: Settings,
    now: datetime,
) -> Failure:
    """A person's word on a failure case: the right answer, "the answer was right", or "leave it".

    Raises `NotFoundError`, `BadFieldError` for a correction that is missing, not wanted or against the model's
    contract, `ConflictError` when it was resolved otherwise already.
    """
    row = session.get(Failure, identifier, with_for_update=True, populate_existing=True)
    if row is None:
        raise _unknown(identifier)
    if action == "correct" and not (correction or "").strip():
        raise BadFieldError("correction", "is required to correct a failure case")
    if action != "correct" and correction is not None:
        raise BadFieldError("correction", f"does not go with the action {action!r}")
    state = _STATES[action]
    correction = correction.strip() if correction is not None else None
    configured = settings.model_named(row.model)
    if correction is not None and configured is not None:
        problem = TaskContract.from_settings(configured).problem(correction)
        if problem is not None:
            raise BadFieldError("correction", problem)
    if row.resolved is not None and (row.state, row.correction) != (state, correction):
        raise ConflictError(f"failure case {row.id} is {row.state} already, by {row.resolved_by}")
    row.state, row.correction = state, correction
    row.resolved_by, row.resolved, row.waits = by, now.timestamp(), None
    session.add(row)
    session.flush()
    return row


def _unknown(identifier: str) -> NotFoundError:
    return NotFoundError(f"there is no failure case {identifier[:60]!r}; `starloop failures list` shows them")


def reviewed(session: Session, model: str) -> dict[str, Failure]:
    """Failure cases that a person resolved, by inference id."""
    query = select(Failure).where(Failure.model == model, col(Failure.resolved).is_not(None))
    return {row.inference_id: row for row in session.exec(query)}
