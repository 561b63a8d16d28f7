"""Removing rows from the record, a few hundred in a transaction, with all that was made of them there.

Every row that goes leaves its tombstone in the same transaction, so a process that dies in between leaves either the row
or the tombstone. What pages show of the record as it was found some time ago is forgotten with it. Nothing here commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, insert, update
from sqlmodel import Session, col, select

from feedback.datasets.agreement import opinions
from feedback.datasets.asked import asked_of
from feedback.datasets.chat import last_user_text
from feedback.datasets.groups import prompt_hash
from feedback.ids import time_of
from feedback.privacy.proposed import blank_candidates, let_go
from feedback.privacy.tombstones import Mason, TombstoneKind
from feedback.storage.completion_table import CompletionMetadata
from feedback.storage.contender_table import ContenderAnswer
from feedback.storage.conversations import conversation_key
from feedback.storage.kept_figures import forget_figures
from feedback.storage.removal_tables import Tombstone
from feedback.storage.review_tables import ReviewOpinion
from feedback.storage.tables import (
    Case,
    Conversation,
    EvaluationResult,
    Failure,
    Feedback,
    Inference,
    MonthlyFinding,
    PromptGroup,
)
from feedback.storage.upsert import take_turns

BATCH = 200


class Removal(NamedTuple):
    """On whose behalf rows go, and what may stay."""

    mason: Mason
    erasure_id: str
    now: datetime
    keeps_prompt: Callable[[str], bool]
    """Whether the prompt of this hash is needed by somebody else: its text stays in its group then."""
    keeps_cases: bool
    """Evaluation cases are frozen like datasets: age leaves them alone, their user does not."""


def remove_inferences(session: Session, identifiers: Sequence[str], removal: Removal) -> Counter[str]:
    """Remove inferences with their feedback, failure cases, conversations, evaluation cases and prompts; counts."""
    take_turns(session, alone=True)
    rows = session.exec(
        select(  # type: ignore[call-overload]
            Inference.id,
            Inference.content_hash,
            Inference.model,
            Inference.conversation,
            Inference.request,
            Inference.prompt,
        ).where(col(Inference.id).in_(identifiers))
    ).all()
    gone = [row[0] for row in rows]
    prompts = {key for row in rows for key in prompt_hashes(row[4], row[5])}
    said = session.exec(
        select(Feedback.id, Feedback.content_hash).where(col(Feedback.inference_id).in_(gone))
    ).all()
    counts = Counter[str]()
    _execute(session, delete(ReviewOpinion).where(col(ReviewOpinion.inference_id).in_(gone)))
    counts["failures"] = _execute(session, delete(Failure).where(col(Failure.inference_id).in_(gone)))
    conversations = [conversation_key(row[2], row[3]) for row in rows if row[3] is not None]
    _execute(session, delete(Conversation).where(col(Conversation.key).in_(conversations)))
    if removal.keeps_cases:
        _keep_askers(session, gone, removal.mason)
    else:
        counts["cases"], more = _blank_cases(session, col(Case.inference_id).in_(gone))
        prompts |= more
        counts["evaluations"] = _forget_answers(session, prompts)
    _forget_months(session, {(row[2], f"{time_of(row[0]):%Y-%m}") for row in rows})
    _execute(session, delete(CompletionMetadata).where(col(CompletionMetadata.inference_id).in_(gone)))
    counts["candidates"] = blank_candidates(session, gone)
    counts["holds"] = let_go(session, [row[0] for row in said])
    counts["prompts"] = _blank_prompts(session, {key for key in prompts if not removal.keeps_prompt(key)})
    counts["feedback"] = _bury(session, Feedback, "feedback", said, removal)
    forget_figures(session)
    counts["inferences"] = _bury(session, Inference, "inference", [(row[0], row[1]) for row in rows], removal)
    return counts


def remove_feedback(session: Session, identifiers: Sequence[str], removal: Removal) -> Counter[str]:
    """Remove feedback about inferences that stay, and take its words back out of failure and evaluation cases."""
    take_turns(session, alone=True)
    rows = session.exec(
        select(  # type: ignore[call-overload]
            Feedback.id,
            Feedback.content_hash,
            Feedback.inference_id,
            Feedback.rater,
            Feedback.correction,
            Feedback.comment,
        ).where(col(Feedback.id).in_(identifiers))
    ).all()
    counts = Counter[str]()
    for _, _, inference_id, rater, correction, comment in rows:
        words = {text.strip() for text in (correction, comment) if text and text.strip()}
        counts["failures"] += _unsay(session, inference_id, rater, words)
        if correction:
            counts["cases"] += _unanswer(session, inference_id, words)
    counts["holds"] = let_go(session, [row[0] for row in rows])
    forget_figures(session)
    counts["feedback"] = _bury(session, Feedback, "feedback", [(row[0], row[1]) for row in rows], removal)
    return counts


def remove_cases(session: Session, identifiers: Sequence[str], removal: Removal) -> Counter[str]:
    """Blank evaluation cases whose inferences age has taken, with the answers to them and their prompts; counts."""
    counts = Counter[str]()
    counts["cases"], prompts = _blank_cases(session, col(Case.id).in_(identifiers))
    counts["evaluations"] = _forget_answers(session, prompts)
    counts["prompts"] = _blank_prompts(session, {key for key in prompts if not removal.keeps_prompt(key)})
    return counts


def prompt_hashes(request: str | None, prompt: str | None) -> set[str]:
    """Under which hashes an inference's prompt may have been placed."""
    asked = asked_of(request)
    texts = {prompt or "", last_user_text(asked.messages) if asked else ""}
    return {prompt_hash(text) for text in texts if text.strip()}


def _keep_askers(session: Session, inference_ids: Sequence[str], mason: Mason) -> None:
    """Write down, as a keyed hash, whose the cases are that outlive these inferences."""
    query = select(Case, Inference.user).join(Inference, col(Inference.id) == col(Case.inference_id))
    for case, user in session.exec(query.where(col(Case.inference_id).in_(inference_ids))).all():
        case.asker = mason.pseudonym(user) if user else None
        session.add(case)
    session.flush()


def _forget_answers(session: Session, prompts: Collection[str]) -> int:
    """What versions answered in evaluations goes, of contenders' answers the text."""
    _execute(
        session,
        update(ContenderAnswer)
        .where(col(ContenderAnswer.prompt_hash).in_(sorted(prompts)))
        .values(output=None, finish_reason=None),
    )
    return _execute(
        session, delete(EvaluationResult).where(col(EvaluationResult.prompt_hash).in_(sorted(prompts)))
    )


def _blank_cases(session: Session, which: ColumnElement[bool]) -> tuple[int, set[str]]:
    """Drop the evaluation cases of these prompts: hash and group stay, so that no prompt changes its side."""
    cases = session.exec(select(Case).where(which)).all()
    for case in cases:
        case.state, case.messages, case.tools, case.answer, case.slice = "dropped", [], None, None, None
        case.asker = None
        session.add(case)
    session.flush()
    return len(cases), {case.prompt_hash for case in cases}


def _blank_prompts(session: Session, hashes: Collection[str]) -> int:
    return _execute(
        session,
        update(PromptGroup)
        .where(col(PromptGroup.prompt_hash).in_(sorted(hashes)), col(PromptGroup.text) != "")
        .values(text=""),
    )


def _forget_months(session: Session, months: Collection[tuple[str, str]]) -> None:
    """What was found of these models' months may hold words of theirs; the newest month is found again without them."""
    for model, month in months:
        found = col(MonthlyFinding.model) == model, col(MonthlyFinding.month) == month
        _execute(session, delete(MonthlyFinding).where(*found))


def _unsay(session: Session, inference_id: str, rater: str, words: Collection[str]) -> int:
    """Put a failure case that goes by somebody's words back into quarantine, without them."""
    row = session.exec(select(Failure).where(Failure.inference_id == inference_id)).first()
    if row is None:
        return 0
    for given in opinions(session, row.id):
        if given.correction is not None and given.correction.strip() in words:
            session.delete(given)
    taken = row.resolved_by == rater or (row.correction is not None and row.correction.strip() in words)
    reasons = [one for one in row.reasons if not any(word in str(one.get("evidence")) for word in words)]
    if not taken and len(reasons) == len(row.reasons):
        return 0
    row.reasons = reasons
    if taken:
        row.state, row.correction, row.resolved_by, row.resolved = "quarantine", None, None, None
    session.add(row)
    session.flush()
    return 1


def _unanswer(session: Session, inference_id: str, words: Collection[str]) -> int:
    """A golden answer that is this correction waits for a person again; what was praised, a version said itself."""
    query = select(Case).where(Case.inference_id == inference_id, col(Case.version).is_(None))
    cases = session.exec(query).all()
    found = [case for case in cases if case.answer is not None and case.answer.strip() in words]
    for case in found:
        case.answer, case.slice = None, None
        case.state = "drawn" if case.state == "confirmed" else case.state
        session.add(case)
    session.flush()
    return len(found)


def _bury(
    session: Session,
    table: type[Feedback] | type[Inference],
    kind: TombstoneKind,
    rows: Sequence[tuple[str, str]],
    removal: Removal,
) -> int:
    if not rows:
        return 0
    erased = removal.now.timestamp()
    stones = [
        removal.mason.carve(kind, identifier, content_hash, erased, removal.erasure_id).model_dump()
        for identifier, content_hash in rows
    ]
    session.connection().execute(insert(Tombstone), stones)
    return _execute(session, delete(table).where(col(table.id).in_([identifier for identifier, _ in rows])))


def _execute(session: Session, statement: Any) -> int:
    return int(session.connection().execute(statement).rowcount)


def orphans(session: Session, limit: int) -> list[str]:
    """Feedback about inferences that were erased; it may have come while they went."""
    query = select(Feedback.id).where(
        col(Feedback.inference_id).in_(select(Tombstone.id).where(Tombstone.kind == "inference"))
    )
    return list(session.exec(query.limit(limit)))
