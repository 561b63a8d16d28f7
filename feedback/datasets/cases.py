"""Evaluation cases: the golden set that people confirm, the regression suite, and the failure hold-out.

Feedback cannot reach the golden set: a case's answer comes from a person with the review scope. What protects came with the
model, was imported, or was praised (`praised.py`). All stand on the evaluation side, one for each prompt group; where a
golden case is confirmed, it takes the place of a praised one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select as columns_of
from sqlmodel import Session, col, select

from feedback.datasets.asked import Asked, asked_of
from feedback.datasets.chat import Messages, base_examples, last_user_text
from feedback.datasets.contract import TaskContract
from feedback.datasets.evidence import placed_base
from feedback.datasets.freeze import split_share
from feedback.datasets.groups import KnownPrompts, assign_groups, groups_by_hash, prompt_hash
from feedback.datasets.imported import placed_imported, read_imported
from feedback.datasets.splits import group_side, row_side, user_key, user_side
from feedback.datasets.tool_calls import Tools, plain_answer
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.imports.storing import list_imports
from feedback.settings import Settings
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import Case, Failure, Inference

_CHUNK = 200
_LONGEST_FACET = 80


@dataclass(frozen=True)
class EvalCase:
    """One question with its right answer."""

    id: str
    messages: Messages
    answer: str
    slice: str | None = None
    critical: bool = False
    facets: tuple[str, ...] = ()
    """What else it is reported by: `key=value` of the request's metadata, `failure=reason` of a failure case."""
    tools: Tools = None
    """What the answer may call; it is asked with them."""
    version: str | None = None
    """Whose answer it is, where it was praised."""


def draw_cases(
    session: Session, model: str, count: int, settings: Settings, rng_seed: int, now: datetime
) -> list[Case]:
    """Draw prompts of live traffic for people to answer: at random, blind to answers and ratings.

    One of each prompt group, none drawn before; fewer than `count` where there are no more. The caller commits.
    """
    share = settings.dataset.evaluation_share
    # Praised cases are passed over here: to leave out what was praised would be to look at outcomes.
    others = Case.model == model, col(Case.version).is_(None)
    drawn = set(session.exec(select(Case.inference_id).where(*others)))
    taken = set(session.exec(select(Case.group_key).where(*others)))
    query = select(Inference.id, Inference.user, Inference.conversation).where(
        Inference.model == model,
        Inference.purpose == "production",
        Inference.status == 200,
        col(Inference.request).is_not(None),
    )
    possible = sorted(
        identifier
        for identifier, user, conversation in session.exec(query)
        if identifier not in drawn
        and user_side(user_key(user, conversation, identifier), share) == "evaluation"
    )
    random.Random(rng_seed).shuffle(possible)
    known = KnownPrompts(settings.dataset)
    found: list[Case] = []
    for start in range(0, len(possible), _CHUNK):
        for inference_id, asked, key, unused in _grouped(
            session, possible[start : start + _CHUNK], settings, known
        ):
            if len(found) == count:
                return found
            if unused or key in taken or group_side(key, share) != "evaluation":
                continue
            taken.add(key)
            case = Case(
                id=new_id(now),
                model=model,
                suite="golden",
                inference_id=inference_id,
                prompt_hash=prompt_hash(last_user_text(asked.messages)),
                group_key=key,
                messages=asked.messages,
                tools=asked.tools,
                created=now.timestamp(),
            )
            session.add(case)
            found.append(case)
        session.flush()
    return found


def confirm_case(
    session: Session,
    identifier: str,
    answer: str | None,
    by: str,
    now: datetime,
    contract: TaskContract,
    critical: bool | None = None,
) -> Case:
    """Give a case its right answer, or a better one (None, to a confirmed case: the mark alone changes); a call of its tools as JSON, or as OpenAI's message with it.

    `critical` marks a golden case as one that no new version may lose, or takes the mark away; None leaves it as it is.
    Raises `NotFoundError`, `ConflictError` for a dropped case, `BadFieldError` when there is no answer, when it breaks the
    contract, or a call its tool's schema, and for a critical case of another suite.
    """
    case = _get(session, identifier)
    if case.state == "dropped":
        raise ConflictError(f"case {case.id} was dropped; draw another")
    if not by.strip():
        raise BadFieldError("by", "is empty; name who answers for the case")
    if critical and case.suite != "golden":
        raise BadFieldError(
            "critical", f"case {case.id} is of the {case.suite} suite; only golden cases can be critical"
        )
    if answer is None and (critical is None or case.state != "confirmed"):
        raise BadFieldError("answer", f"is required: {_unanswered(case)}")
    if answer is None:  # a mark alone: whoever gave the answer goes on answering for it
        case.critical = bool(critical)
        session.add(case)
        session.flush()
        return case
    if (problem := contract.problem(answer, case.messages, case.tools)) is not None:
        raise BadFieldError("answer", problem)
    case.answer = plain_answer(answer.strip(), case.tools)
    case.slice = contract.slice_of(case.answer)
    case.state, case.confirmed, case.confirmed_by, case.version = "confirmed", now.timestamp(), by, None
    case.critical = case.critical if critical is None else critical
    session.add(case)
    praised = select(Case).where(
        Case.model == case.model, Case.group_key == case.group_key, col(Case.version).is_not(None)
    )
    for other in session.exec(praised):
        other.state = "dropped"
    session.flush()
    return case


def _unanswered(case: Case) -> str:
    if case.answer is None:
        return f"case {case.id} has no answer yet"
    return f"case {case.id} is {case.state}, and a person has to say that its answer is right by giving it"


def drop_case(session: Session, identifier: str) -> Case:
    """Take a case out of its suite for good. Raises `NotFoundError`."""
    case = _get(session, identifier)
    case.state = "dropped"
    session.add(case)
    session.flush()
    return case


def list_cases(
    session: Session, model: str | None, suite: str | None, state: str | None, limit: int, cursor: str | None
) -> Page[Case]:
    """Cases, newest first."""
    query = select(Case)
    for column, value in ((Case.model, model), (Case.suite, suite), (Case.state, state)):
        if value is not None:
            query = query.where(column == value)
    return newest_first(session, query, Case, limit, cursor)


def import_base_examples(session: Session, settings: Settings, model: str, now: datetime) -> int:
    """Make regression cases of the base examples on the evaluation side, and of imports that the model is to know already.

    Returns how many are new. The caller commits.
    """
    configured = settings.model_named(model)
    if configured is None:
        raise NotFoundError(f"there is no [[model]] named {model!r} in the configuration")
    contract = TaskContract.from_settings(configured)
    examples, rules = base_examples(configured), settings.dataset
    old = read_imported(settings.directory, list_imports(session, model), ("replay",), rules.imported)
    taken = set(session.exec(select(Case.group_key).where(Case.model == model)))
    prompts = [*(row.prompt for row in examples), *(one.conversation.prompt for one in old)]
    groups = assign_groups(session, prompts, rules)
    placed = placed_base(examples, groups, rules.evaluation_share)
    placed += placed_imported(old, groups, rules.evaluation_share)
    added = 0
    for row, key, side, *_ in placed:
        if side != "evaluation" or key in taken:
            continue
        taken.add(key)
        added += 1
        session.add(
            Case(
                id=new_id(now),
                model=model,
                suite="regression",
                state="confirmed",
                prompt_hash=prompt_hash(row.prompt),
                group_key=key,
                messages=row.messages,
                answer=row.answer,
                slice=contract.slice_of(row.answer),
                created=now.timestamp(),
                confirmed=now.timestamp(),
                confirmed_by="base examples",
            )
        )
    session.flush()
    return added


def golden_cases(session: Session, model: str) -> list[EvalCase]:
    """The confirmed golden set: it decides."""
    return _confirmed(session, model, "golden")


def regression_cases(session: Session, model: str) -> list[EvalCase]:
    """Cases of old skill: they protect."""
    return _confirmed(session, model, "regression")


def holdout_cases(session: Session, model: str) -> list[EvalCase]:
    """Failures on the evaluation side with an accepted correction, one for each group: they inform.

    There are none before the model's first dataset version, which fixes the sides and groups the prompts.
    """
    share = split_share(session, model)
    if share is None:
        return []
    query = (
        columns_of(
            col(Inference.id),
            col(Inference.user),
            col(Inference.conversation),
            col(Inference.request),
            col(Failure.correction),
            col(Failure.reasons),
            col(Inference.metadata_),
        )
        .join(Failure, col(Failure.inference_id) == col(Inference.id))
        .where(col(Failure.model) == model, col(Failure.state) == "corrected")
        .order_by(col(Inference.id))
    )
    rows = [
        (
            EvalCase(
                identifier,
                asked.messages,
                plain_answer(answer, asked.tools),
                facets=facets_of(metadata, reasons),
                tools=asked.tools,
            ),
            user_key(user, conversation, identifier),
        )
        for identifier, user, conversation, request, answer, reasons, metadata in session.connection().execute(
            query
        )
        if answer is not None and (asked := asked_of(request)) is not None
    ]
    hashes = [prompt_hash(last_user_text(case.messages)) for case, _ in rows]
    groups = groups_by_hash(session, hashes)
    found: dict[str, EvalCase] = {}
    for (case, user), prompt in zip(rows, hashes, strict=True):
        group = groups.get(prompt)
        if group is None or group.unused or row_side(group.key, user, share) != "evaluation":
            continue
        found.setdefault(group.key, case)
    return list(found.values())


def facets_of(
    metadata: Mapping[str, Any] | None, reasons: Sequence[Mapping[str, Any]] = ()
) -> tuple[str, ...]:
    """What a case is reported by besides its slice: short values of metadata, and why triage selected it."""
    told = [
        f"{key}={value}"
        for key, value in (metadata or {}).items()
        if isinstance(value, str | int | float | bool) and len(f"{key}={value}") <= _LONGEST_FACET
    ]
    return tuple(sorted({*told, *(f"failure={one['reason']}" for one in reasons)}))


def _confirmed(session: Session, model: str, suite: str) -> list[EvalCase]:
    query = (
        select(Case, Inference.metadata_)
        .outerjoin(Inference, col(Inference.id) == col(Case.inference_id))
        .where(Case.model == model, Case.suite == suite, Case.state == "confirmed")
        .order_by(col(Case.id))
    )
    return [
        EvalCase(
            case.id,
            case.messages,
            case.answer or "",
            case.slice,
            case.critical,
            facets_of(metadata),
            case.tools,
            case.version,
        )
        for case, metadata in session.exec(query)
    ]


def _grouped(
    session: Session, identifiers: list[str], settings: Settings, known: KnownPrompts
) -> list[tuple[str, Asked, str, bool]]:
    """Id, conversation, group and whether the prompt is unused, in the order of the ids; others than chats are left out."""
    query = select(Inference.id, Inference.request).where(col(Inference.id).in_(identifiers))
    asked = {identifier: asked_of(request) for identifier, request in session.exec(query)}
    chats = [
        (identifier, one, prompt)
        for identifier in identifiers
        if (one := asked.get(identifier)) and (prompt := last_user_text(one.messages)).strip()
    ]
    groups = assign_groups(session, [prompt for *_, prompt in chats], settings.dataset, known)
    found = []
    for identifier, one, prompt in chats:
        group = groups[prompt_hash(prompt)]
        found.append((identifier, one, group.key, group.unused))
    return found


def _get(session: Session, identifier: str) -> Case:
    case = session.get(Case, identifier)
    if case is None:
        raise NotFoundError(f"there is no case {identifier[:60]!r}; `starloop data golden list` shows them")
    return case
