"""Reads what curation needs out of the record: answers that somebody spoke about, with group, side and signals."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from sqlmodel import Session, col, select

from feedback.datasets.asked import asked_of
from feedback.datasets.chat import Conversation, Messages, last_user_text
from feedback.datasets.failures import reviewed
from feedback.datasets.groups import Group, KnownPrompts, assign_groups, prompt_hash
from feedback.datasets.said import BaseExample, Said, Signal
from feedback.datasets.splits import example_key, row_side, user_key
from feedback.datasets.tool_calls import Tools, plain_answer
from feedback.settings import Dataset
from feedback.storage.database import Database
from feedback.storage.inferences import of_model
from feedback.storage.tables import Feedback, Inference

_CHUNK = 500
_PLACED_AT_ONCE = 500
_STREAMED = 5000


class Heard(NamedTuple):
    """One answered chat inference and all that stands said about it."""

    inference_id: str
    user: str
    """Who stands for its user (`splits.user_key`)."""
    messages: Messages
    output: str
    finish_reason: str | None
    signals: tuple[Signal, ...]
    resolution: str | None
    reviewed_answer: str | None
    reviewed_by: str | None
    version: str
    tools: Tools = None


def read_heard(session: Session, model: str) -> list[Heard]:
    """Every production answer of the model with current feedback or a reviewer's word, or to which another was preferred,
    oldest first."""
    # Hundreds of thousands are held at a time: what many share is one object, not a copy for each.
    shared: dict[str | None, str | None] = {}
    signals = _signals(session, model)
    resolved = reviewed(session, model)
    worse = {one.preferred_over for given in signals.values() for one in given if one.preferred_over}
    found = []
    for identifier, user, conversation, request, output, finish_reason, version in _inferences(
        session, model, signals.keys() | resolved.keys() | worse
    ):
        asked = asked_of(request)
        if asked is None or not last_user_text(asked.messages).strip():
            continue
        output = plain_answer(output or "", asked.tools)
        failure = resolved.get(identifier)
        found.append(
            Heard(
                identifier,
                sys.intern(user_key(user, conversation, identifier)),
                asked.messages,
                shared.setdefault(output, output) or "",
                shared.setdefault(finish_reason, finish_reason),
                tuple(signals.pop(identifier, ())),
                failure.state if failure else None,
                failure.correction if failure else None,
                failure.resolved_by if failure else None,
                sys.intern(version),
                asked.tools,
            )
        )
    return found


def place_prompts(database: Database, prompts: Iterable[str], settings: Dataset) -> dict[str, Group]:
    """Groups of all prompts by hash, placing those that have none yet.

    A few hundred in a transaction, so that nobody waits long for the database; groups stay, whatever comes after.
    """
    known = KnownPrompts(settings)
    with database.reading() as session:
        known.catch_up(session)
    groups: dict[str, Group] = {}
    remaining = iter(prompts)
    while some := list(islice(remaining, _PLACED_AT_ONCE)):
        with database.session() as session:
            groups |= assign_groups(session, some, settings, known)
            session.commit()
    return groups


def placed(heard: Iterable[Heard], groups: Mapping[str, Group], share: float) -> list[Said]:
    """What was heard, with group and side; prompts without a group are left out."""
    found = []
    for one in heard:
        group = groups.get(prompt_hash(last_user_text(one.messages)))
        if group is None:
            continue
        found.append(
            Said(
                inference_id=one.inference_id,
                messages=one.messages,
                output=one.output,
                finish_reason=one.finish_reason,
                group_key=group.key,
                side=None if group.unused else row_side(group.key, one.user, share),
                signals=one.signals,
                resolution=one.resolution,
                reviewed_answer=one.reviewed_answer,
                reviewed_by=one.reviewed_by,
                version=one.version,
                tools=one.tools,
            )
        )
    return found


def placed_base(
    examples: Sequence[Conversation], groups: Mapping[str, Group], share: float
) -> list[BaseExample]:
    """Base examples with group and side; each row is a conversation of its own."""
    found = []
    for row in examples:
        group = groups[prompt_hash(row.prompt)]
        side = None if group.unused else row_side(group.key, example_key(row.content_hash), share)
        found.append(BaseExample(row, group.key, side))
    return found


def _signals(session: Session, model: str) -> dict[str, list[Signal]]:
    signals: dict[str, list[Signal]] = defaultdict(list)
    shared: dict[str | None, str | None] = {}
    query = (
        select(  # type: ignore[call-overload]
            Feedback.inference_id,
            Feedback.id,
            Feedback.rater,
            Feedback.source,
            Feedback.rating,
            Feedback.correction,
            Feedback.choice,
            Feedback.created,
            Feedback.preferred_over,
        )
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(of_model(model), Inference.purpose == "production", col(Feedback.current))
        .order_by(col(Feedback.id))
    )
    for inference_id, identifier, rater, source, rating, correction, choice, created, worse in session.exec(
        query.execution_options(yield_per=_STREAMED)
    ):
        # The output that is kept is the first choice's, so stars for another say nothing about it.
        stars = rating if choice == 0 else None
        correction = shared.setdefault(correction, correction)
        worse = worse if choice == 0 else None
        signal = Signal(identifier, sys.intern(rater), sys.intern(source), stars, correction, created, worse)
        signals[inference_id].append(signal)
    return signals


def _inferences(
    session: Session, model: str, identifiers: Collection[str]
) -> Iterator[tuple[str, str | None, str | None, str | None, str | None, str | None, str]]:
    ordered = sorted(identifiers)
    for start in range(0, len(ordered), _CHUNK):
        query = (
            select(  # type: ignore[call-overload, misc]
                Inference.id,
                Inference.user,
                Inference.conversation,
                Inference.request,
                Inference.output,
                Inference.finish_reason,
                Inference.version,
            )
            .where(
                col(Inference.id).in_(ordered[start : start + _CHUNK]),
                of_model(model),
                Inference.status == 200,
                Inference.purpose == "production",
            )
            .order_by(col(Inference.id))
        )
        yield from session.exec(query).all()
