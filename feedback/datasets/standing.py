"""Writes what curation made of each failure case back into the record: what waits, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from feedback.datasets.contract import same_answer
from feedback.datasets.said import Example, Said
from feedback.storage.seals import seal_of
from feedback.storage.tables import Failure

_STREAMED = 5000


def write_standing(
    session: Session,
    model: str,
    said: Sequence[Said],
    targets: Sequence[Example],
    waits: Mapping[str, str],
    now: datetime,
) -> int:
    """Bring the model's failure cases up to date; returns how many changed. The caller commits.

    A case whose correction is not believed goes back to quarantine with the reason; one whose own answer got a target is
    corrected. What a person resolved stays as it was resolved.
    """
    mine = {target.inference_id: target for target in targets}
    in_group = {target.group_key: target for target in targets}
    by_id = {one.inference_id: one for one in said}
    changed: list[dict[str, Any]] = []
    columns: Any = select(  # type: ignore[call-overload]
        Failure.id,
        Failure.inference_id,
        Failure.state,
        Failure.correction,
        Failure.resolved_by,
        Failure.waits,
    )
    cases = columns.where(Failure.model == model, col(Failure.resolved).is_(None))
    for row in session.exec(cases.execution_options(yield_per=_STREAMED)):
        one, why = by_id.get(row.inference_id), waits.get(row.inference_id)
        if one is None or (row.state == "dismissed" and why is None):
            continue
        written = [signal for signal in one.signals if signal.correction]
        target = mine.get(row.inference_id)
        if target is None and (found := in_group.get(one.group_key)) is not None:
            agrees = any(same_answer(signal.correction or "", found.answer) for signal in written)
            target = found if agrees else None
        state, correction, by = row.state, row.correction, row.resolved_by
        if why is not None:
            state = "quarantine"
            correction = written[-1].correction if written else None
            by = written[-1].rater if written else None
        elif target is not None:
            state, correction, by = "corrected", target.answer, target.rater or target.source
        if (row.state, row.correction, row.resolved_by, row.waits) != (state, correction, by, why):
            changed.append(
                {
                    "id": row.id,
                    "state": state,
                    "correction": correction,
                    "resolved_by": by,
                    "waits": why,
                    "curated": now.timestamp(),
                    "content_hash": seal_of(
                        Failure, {"id": row.id, "inference_id": row.inference_id, "correction": correction}
                    ),
                }
            )
    if changed:
        session.execute(update(Failure), changed)
    return len(changed)
