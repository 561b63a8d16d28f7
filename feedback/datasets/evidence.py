"""Reads what curation needs out of the record: answers that somebody spoke about, with group, side and signals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlmodel import Session, col, select

from feedback.datasets.chat import Conversation, Messages, last_user_text, messages_of
from feedback.datasets.curation import Said, Signal
from feedback.datasets.failures import reviewed
from feedback.datasets.groups import assign_groups, known_groups, prompt_hash
from feedback.datasets.splits import Side, row_side, user_key
from feedback.settings import Dataset
from feedback.storage.tables import Feedback, Inference

_CHUNK = 500


@dataclass(frozen=True)
class Placed:
    """One answered inference with the side that its group and its user agree on."""

    said: Said
    side: Side | None


def read_evidence(session: Session, model: str, settings: Dataset, place: bool = True) -> list[Placed]:
    """Every production answer of the model with current feedback or a reviewer's word, oldest first.

    With `place`, prompts that were never grouped are placed now, and the caller commits; without, they are left out.
    """
    signals: dict[str, list[Signal]] = defaultdict(list)
    query = (
        select(Feedback)
        .join(Inference, col(Inference.id) == col(Feedback.inference_id))
        .where(Inference.model == model, Inference.purpose == "production", col(Feedback.current))
        .order_by(col(Feedback.id))
    )
    for row in session.exec(query):
        signals[row.inference_id].append(Signal(row.id, row.rater, row.source, row.rating, row.correction))
    resolved = reviewed(session, model)
    rows: list[tuple[Inference, Messages]] = []
    for inference in _inferences(session, sorted(signals.keys() | resolved.keys())):
        messages = messages_of(inference.request)
        if messages is not None and last_user_text(messages).strip():
            rows.append((inference, messages))
    prompts = [last_user_text(messages) for _, messages in rows]
    groups = assign_groups(session, prompts, settings) if place else known_groups(session, prompts)
    placed = []
    for (inference, messages), prompt in zip(rows, map(prompt_hash, prompts), strict=True):
        if prompt not in groups:
            continue
        group = groups[prompt]
        who = user_key(inference.user, inference.conversation, inference.id)
        failure = resolved.get(inference.id)
        said = Said(
            inference_id=inference.id,
            messages=messages,
            output=inference.output or "",
            prompt_hash=prompt,
            group_key=group.key,
            signals=tuple(signals.get(inference.id, ())),
            resolution=failure.state if failure else None,
            reviewed_answer=failure.correction if failure else None,
            reviewed_by=failure.resolved_by if failure else None,
        )
        side = None if group.unused else row_side(group.key, who, settings.evaluation_share)
        placed.append(Placed(said, side))
    return placed


def place_base(
    session: Session, examples: Iterable[Conversation], settings: Dataset
) -> list[tuple[Conversation, str, Side | None]]:
    """Base examples with group and side; each row is a conversation of its own."""
    rows = list(examples)
    groups = assign_groups(session, [row.prompt for row in rows], settings)
    placed = []
    for row in rows:
        group = groups[prompt_hash(row.prompt)]
        side = None if group.unused else row_side(group.key, row.content_hash, settings.evaluation_share)
        placed.append((row, group.key, side))
    return placed


def _inferences(session: Session, identifiers: list[str]) -> Iterable[Inference]:
    for start in range(0, len(identifiers), _CHUNK):
        chunk = identifiers[start : start + _CHUNK]
        query = select(Inference).where(
            col(Inference.id).in_(chunk), Inference.status == 200, Inference.purpose == "production"
        )
        yield from session.exec(query.order_by(col(Inference.id)))
