"""Taking a decision on a failure case back."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from feedback.datasets.agreement import forget_opinions, take_back
from feedback.datasets.candidates import undecide_candidates
from feedback.datasets.failures import judge_again, lock_failure
from feedback.errors import ConflictError
from feedback.settings import Settings
from feedback.storage.tables import Failure


def reopen_failure(
    session: Session, identifier: str, settings: Settings, now: datetime, by: str = ""
) -> Failure:
    """Make a case wait again: what people decided on it and on its candidates is taken back, and triage judges anew.

    Where two must agree, `by` takes back their own opinion, and who is not one of the two takes back everybody's.

    Dataset versions that were made meanwhile stay as they are; the next one goes by what holds then. The caller commits.
    Raises `NotFoundError`, and `ConflictError` where nothing was decided.
    """
    row = lock_failure(session, identifier)
    taken_back = undecide_candidates(session, row.inference_id)
    mine = take_back(session, row, by)
    if row.resolved is None and not taken_back and not mine:
        raise ConflictError(f"nobody has decided on failure case {row.id}, so there is nothing to take back")
    if row.resolved is not None:
        judge_again(session, row, settings, now)
        if not mine:
            forget_opinions(session, row.id)
    return row
