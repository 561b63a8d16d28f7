"""Failure cases in the record: found by triage, waiting in quarantine, resolved by a correction or a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlmodel import Session, col, select

from feedback.datasets.agreement import opine
from feedback.datasets.asked import asked_of
from feedback.datasets.contract import TaskContract, same_answer
from feedback.datasets.follow_ups import SIGNS, Sign
from feedback.datasets.traffic import Heard, Seen, Traffic, Window
from feedback.datasets.triage import Triager, is_operational, rules_hash
from feedback.datasets.votes import believed
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.settings import Settings
from feedback.storage.arrival_tables import TriageMark
from feedback.storage.arrivals import arrived_since, forget_arrivals
from feedback.storage.database import Database
from feedback.storage.inferences import has_reason
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Failure, Feedback, Inference

_STATES = {"correct": "corrected", "accept": "accepted", "dismiss": "dismissed"}
_CHUNK = 500


class Finding(NamedTuple):
    """What triage makes of one inference."""

    reasons: list[dict[str, Any]]
    state: str
    correction: str | None
    by: str | None


def triage_model(session: Session, model: str, settings: Settings, now: datetime) -> int:
    """Find the model's failure cases among its production traffic; returns how many are new or have changed.

    Looks at what came since the last time, at earlier answers that something new was said about, and at all of it
    when the rules have changed. What a person resolved stays as it was resolved. All in the session's transaction.
    """
    return _triage(lambda: nullcontext(session), model, settings, now)


def triage_in_steps(database: Database, model: str, settings: Settings, now: datetime) -> int:
    """As `triage_model`, in a transaction for every few thousand rows, so that no writer waits long.

    Cut short, it begins again where the last whole triage ended; what it had found stays.
    """

    @contextmanager
    def step() -> Iterator[Session]:
        with database.session() as session:
            yield session
            session.commit()

    return _triage(step, model, settings, now)


def _triage(
    step: Callable[[], AbstractContextManager[Session]], model: str, settings: Settings, now: datetime
) -> int:
    configured = settings.model_named(model)
    contract = TaskContract(None) if configured is None else TaskContract.from_settings(configured)
    traffic = Traffic(model, settings.triage, contract.needs_messages)
    rules = rules_hash(contract, settings.triage)
    triager = Triager(contract, settings.triage)
    with step() as session:
        mark = session.get(TriageMark, model)
        known_rules = mark is not None and mark.rules == rules
        arrived = arrived_since(session, mark.stored if mark is not None and known_rules else None)
    changed = 0
    for span in arrived.inferences:
        after: str | None = ""
        while after is not None:
            with step() as session:
                window = traffic.window(session, span, after)
                changed += _take(session, window, triager, model, now)
                # What came may also say something about an answer before it.
                changed += _take(session, traffic.earlier(session, window), triager, model, now)
            after = window.next
    for span in arrived.feedback:
        after = ""
        while after is not None:
            with step() as session:
                window = traffic.spoken_of(session, span, after, arrived.inferences)
                changed += _take(session, window, triager, model, now)
            after = window.next
    with step() as session:
        session.merge(TriageMark(model=model, stored=arrived.stored, rules=rules))
        forget_arrivals(session, now.timestamp())
    return changed


def judge_again(session: Session, row: Failure, settings: Settings, now: datetime) -> None:
    """Give a case the state that triage finds for it now, as if no person had decided. Nothing is committed."""
    row.state, row.correction, row.resolved_by, row.resolved = "quarantine", None, None, None
    row.waits, row.curated = None, None
    session.add(row)
    session.flush()
    configured = settings.model_named(row.model)
    contract = TaskContract(None) if configured is None else TaskContract.from_settings(configured)
    window = Traffic(row.model, settings.triage, contract.needs_messages).one(session, row.inference_id)
    _take(session, window, Triager(contract, settings.triage), row.model, now)


def _take(session: Session, window: Window, triager: Triager, model: str, now: datetime) -> int:
    """Judge a window and write down what is new; how many cases are."""
    known = {
        row.inference_id: row
        for some in window.pieces(col(Failure.inference_id), select(Failure))
        for row in session.exec(some)
    }
    changed = 0
    for seen in window.rows:
        row = known.get(seen.id)
        found = _judge(seen, window, triager, row)
        if row is not None:
            found = _as_curated(row, found, window.heard.get(seen.id, ()))
        if row is None and found.reasons:
            session.add(
                Failure(
                    id=new_id(now),
                    inference_id=seen.id,
                    model=model,
                    created=now.timestamp(),
                    reasons=found.reasons,
                    state=found.state,
                    correction=found.correction,
                    resolved_by=found.by,
                )
            )
            changed += 1
        elif row is not None and row.resolved is not None:
            # A person decided; what is known beside it may grow, but the reasons they saw never vanish.
            if found.reasons and found.reasons != row.reasons:
                row.reasons = found.reasons
                session.add(row)
                changed += 1
        elif row is not None and found != (row.reasons, row.state, row.correction, row.resolved_by):
            row.reasons, row.state, row.correction, row.resolved_by = found
            session.add(row)
            changed += 1
    session.flush()
    return changed


def _judge(seen: Seen, window: Window, triager: Triager, known: Failure | None) -> Finding:
    """Reasons and state of one inference, by what is known now; `resolved` is never triage's to set."""
    words = window.heard.get(seen.id, ())
    signs = window.signs.get(seen.id, [])
    earlier = [] if known is None or window.whole else known.reasons
    named = {sign.reason for sign in signs}
    signs = [*signs, *(_as_sign(seen.id, one) for one in earlier if one["reason"] in SIGNS - named)]
    reasons = triager.reasons(
        seen.answered,
        [word.rating for word in words if word.rating is not None],
        [word.answer for word in words if word.answer],
        signs,
        window.paces.get(seen.version),
    )
    shown = [reason.shown() for reason in reasons]
    if not any(reason.reason == "slow" for reason in reasons):
        # What is usual changes; an answer that was slow by what was usual then stays so.
        shown += [one for one in earlier if one["reason"] == "slow" and "slow" not in triager.settings.off]
    if not shown:
        return Finding(shown, "dismissed", None, "triage")  # its rater has taken the complaint back
    if is_operational({one["reason"] for one in shown}):
        return Finding(shown, "operations", None, None)
    output = seen.answered.output
    offers = [
        word
        for word in words
        if word.answer
        and triager.contract.valid(word.answer, seen.answered.messages)
        and (output is None or not same_answer(word.answer, output))
    ]
    agreed = believed(offers)
    if agreed is None:
        return Finding(shown, "quarantine", None, None)
    return Finding(shown, "corrected", agreed.answer.strip(), agreed.rater)


def _as_sign(inference_id: str, reason: dict[str, Any]) -> Sign:
    return Sign(inference_id, reason["reason"], reason["confidence"], reason["evidence"])


def _as_curated(row: Failure, found: Finding, words: Sequence[Heard]) -> Finding:
    """Curation knows more of whom to believe: what it set stands until somebody says more about the answer."""
    if row.curated is None or any(word.created > row.curated for word in words):
        return found
    return found._replace(state=row.state, correction=row.correction, by=row.resolved_by)


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
    session: Session,
    model: str | None,
    state: str | None,
    limit: int,
    cursor: str | None,
    reason: str | None = None,
) -> Page[Failure]:
    """Failure cases, newest first; with `reason`, those that have it among theirs."""
    query = select(Failure)
    if reason is not None:
        query = query.where(has_reason(reason))
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

    Where the model wants two reviewers, it stays as it is until two agree, and `waits` says for whom.

    Raises `NotFoundError`, `BadFieldError` for a correction that is missing, not wanted or against the model's
    contract, `ConflictError` when it was resolved otherwise already.
    """
    row = lock_failure(session, identifier)
    if action == "correct" and not (correction or "").strip():
        raise BadFieldError("correction", "is required to correct a failure case")
    if action != "correct" and correction is not None:
        raise BadFieldError("correction", f"does not go with the action {action!r}")
    state = _STATES[action]
    correction = correction.strip() if correction is not None else None
    configured = settings.model_named(row.model)
    if correction is not None and configured is not None:
        inference = session.get(Inference, row.inference_id)
        asked = asked_of(inference.request) if inference else None
        contract = TaskContract.from_settings(configured)
        problem = contract.problem(correction, *((asked.messages, asked.tools) if asked else ()))
        if problem is not None:
            raise BadFieldError("correction", problem)
    if row.resolved is not None and (row.state, row.correction) != (state, correction):
        raise ConflictError(f"failure case {row.id} is {row.state} already, by {row.resolved_by}")
    needed = 1 if configured is None else configured.reviewers
    if needed > 1 and row.resolved is None:
        sharing = opine(session, row, action, correction, by, needed, now)
        if not sharing:
            session.flush()
            return row
        by = ", ".join(sharing)
    row.state, row.correction = state, correction
    row.resolved_by, row.resolved, row.waits = by, now.timestamp(), None
    session.add(row)
    session.flush()
    return row


def lock_failure(session: Session, identifier: str) -> Failure:
    """A failure case as it stands now, held until the transaction ends. Raises `NotFoundError`."""
    row = session.get(Failure, identifier, with_for_update=True, populate_existing=True)
    if row is None:
        raise _unknown(identifier)
    return row


def _unknown(identifier: str) -> NotFoundError:
    return NotFoundError(f"there is no failure case {identifier[:60]!r}; `starloop failures list` shows them")


def reviewed(session: Session, model: str) -> dict[str, Failure]:
    """Failure cases that a person resolved, by inference id."""
    query = select(Failure).where(Failure.model == model, col(Failure.resolved).is_not(None))
    return {row.inference_id: row for row in session.exec(query)}
