"""Takes removed words out of what waits for a reviewer: corrections that models proposed, and raters who are held.

The rows stay: a candidate's cost counts in the teacher's budget, and what else a hold holds is still held.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import update
from sqlmodel import Session, col, select

from feedback.storage.tables import Candidate, RaterHold

_GONE = "what was held here has been removed"


def blank_candidates(session: Session, inference_ids: Sequence[str]) -> int:
    """Blank what was proposed for these answers, and never answer the same question from it; the caller commits."""
    statement = (
        update(Candidate)
        .where(col(Candidate.inference_id).in_(inference_ids), col(Candidate.answer) != "")
        .values(answer="", checks=[], request_hash="", state="rejected")
    )
    return int(session.connection().execute(statement).rowcount)


def let_go(session: Session, feedback_ids: Collection[str]) -> int:
    """Take feedback out of the holds on it, and the correction that a hold quotes; the caller commits."""
    gone, changed = set(feedback_ids), 0
    for row in session.exec(select(RaterHold)):
        if gone.isdisjoint(row.feedback):
            continue
        row.feedback = [identifier for identifier in row.feedback if identifier not in gone]
        if row.kind == "correction":
            row.target, row.reason = "", _GONE
        session.add(row)
        changed += 1
    session.flush()
    return changed
