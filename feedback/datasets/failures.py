"""Failure cases in the record: found by triage, waiting in quarantine, resolved by a correction or a person."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Literal

from sqlmodel import Session, col, select

from feedback.datasets.contract import TaskContract
from feedback.datasets.triage import reasons_for
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.settings import Settings
from feedback.storage.paging import Page, id_of_cursor
from feedback.storage.tables import Failure, Feedback, Inference

_STATES = {"correct": "corrected", "accept": "accepted", "dismiss": "dismissed"}


def triage_model(session: Session, model: str, settings: Settings, now: datetime) -> int:
    """Find the model's failure cases among all production answers; returns how many are new or have changed.

    Two queries, whatever the number of inferences. What a person resolved stays as it was resolved.
    """
    configured = settings.model_named(model)
    contract = TaskContract(None) if configured is None else TaskContract.from_settings(configured)
    said: dict[str, list[tuple[int | None, str | None]]] = defaultdict(list)
    signals = (
        select(Feedback.inference_id, Feedback.rating, Feedback.correction)
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(Inference.model == model, col(Feedback.current))
    )
    for inference_id, rating, correction in session.exec(signals):
        said[inference_id].append((rating, correction))
    known = {row.inference_id: row for row in session.exec(select(Failure).where(Failure.model == model))}
    answered = select(Inference.id, Inference.output, Inference.finish_reason, Inference.stored).where(
        Inference.model == model, Inference.purpose == "production", Inference.status == 200
    )
    changed = 0
    for inference_id, output, finish_reason, stored in session.exec(answered):
        heard = said.get(inference_id, [])
        ratings = [rating for rating, _ in heard if rating is not None]
        corrections = [text for _, text in heard if text is not None]
        shown = (output or "") if stored else None
        reasons = reasons_for(shown, finish_reason, ratings, corrections, contract, settings.triage)
        found = [reason.shown() for reason in reasons]
        row = known.get(inference_id)
        if row is None and found:
            session.add(
                Failure(
                    id=new_id(now),
                    inference_id=inference_id,
                    model=model,
                    created=now.timestamp(),
                    reasons=found,
                )
            )
            changed += 1
        elif row is not None and row.state == "quarantine" and row.reasons != found:
            row.reasons = found
            session.add(row)
            changed += 1
    session.flush()
    return changed


def list_failures(
    session: Session, model: str | None, state: str | None, limit: int, cursor: str | None
) -> Page[Failure]:
    """Failure cases, newest first."""
    query = select(Failure)
    if model is not None:
        query = query.where(Failure.model == model)
    if state is not None:
        query = query.where(Failure.state == state)
    if cursor is not None:
        query = query.where(col(Failure.id) < id_of_cursor(cursor))
    found = list(session.exec(query.order_by(col(Failure.id).desc()).limit(limit + 1)))
    items = found[:limit]
    return Page(items, items[-1].id if len(found) > limit else None)


def resolve_failure(
    session: Session,
    identifier: str,
    action: Literal["correct", "accept", "dismiss"],
    correction: str | None,
    by: str,
    now: datetime,
) -> Failure:
    """A person's word on a failure case: the right answer, "the answer was right", or "leave it".

    Raises `NotFoundError`, `BadFieldError` for a correction that is missing or not wanted, `ConflictError` when it was
    resolved otherwise already.
    """
    row = session.get(Failure, identifier)
    if row is None:
        raise NotFoundError(
            f"there is no failure case {identifier[:60]!r}; `starloop failures list` shows them"
        )
    if action == "correct" and not (correction or "").strip():
        raise BadFieldError("correction", "is required to correct a failure case")
    if action != "correct" and correction is not None:
        raise BadFieldError("correction", f"does not go with the action {action!r}")
    state = _STATES[action]
    if row.state != "quarantine" and (row.state, row.correction) != (state, correction):
        raise ConflictError(f"failure case {row.id} is {row.state} already, by {row.resolved_by}")
    row.state, row.correction = state, correction
    row.resolved_by, row.resolved = by, now.timestamp()
    session.add(row)
    session.flush()
    return row


def reviewed(session: Session, model: str) -> dict[str, Failure]:
    """Failure cases that a person resolved, by inference id."""
    query = select(Failure).where(Failure.model == model, Failure.state != "quarantine")
    return {row.inference_id: row for row in session.exec(query)}
