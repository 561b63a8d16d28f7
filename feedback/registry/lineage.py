"""Where a version came from, and what became of an inference (invariant 3). Every step carries its content hash."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session, col, select

from feedback.registry.adapters import adapter_name
from feedback.registry.versions import get_version
from feedback.storage.tables import (
    Cycle,
    DataImport,
    DatasetVersion,
    Example,
    Feedback,
    Inference,
    ModelVersion,
    Move,
)


def lineage(session: Session, model: str, number: str) -> dict[str, Any]:
    """From a version to its cycle, dataset version, examples, feedback and inferences, as one JSON document."""
    version = get_version(session, model, number)
    cycle = session.get(Cycle, version.cycle_id) if version.cycle_id else None
    dataset = session.get(DatasetVersion, version.dataset_id) if version.dataset_id else None
    moves = session.exec(
        select(Move)
        .where(Move.model == model, (col(Move.to_version) == number) | (col(Move.from_version) == number))
        .order_by(col(Move.id))
    )
    return {
        "version": {
            "name": adapter_name(model, number),
            "state": version.state,
            "adapter_hash": version.adapter_hash,
            "base": version.base,
            "base_revision": version.base_revision,
            "note": version.note,
            "created": datetime.fromtimestamp(version.created, UTC),
        },
        "cycle": None
        if cycle is None
        else {
            "id": cycle.id,
            "requested_by": cycle.requested_by,
            "decision": cycle.decision,
            "reason": cycle.reason,
            "guards_off": cycle.guards_off,
            "created": datetime.fromtimestamp(cycle.created, UTC),
        },
        "moves": [
            {
                "id": move.id,
                "kind": move.kind,
                "from": move.from_version or "base",
                "to": move.to_version or "base",
                "reason": move.reason,
                "decided_by": move.decided_by,
                "cycle_id": move.cycle_id,
                "created": datetime.fromtimestamp(move.created, UTC),
            }
            for move in moves
        ],
        "dataset": None
        if dataset is None
        else {
            "id": dataset.id,
            "parents": _parents(session, dataset),
            "content_hash": dataset.content_hash,
            "note": dataset.note,
            "created": datetime.fromtimestamp(dataset.created, UTC),
        },
        "examples": [] if dataset is None else _examples(session, dataset.id),
    }


def versions_from_inference(session: Session, inference_id: str) -> list[ModelVersion]:
    """The versions that were trained on an example of this inference, oldest first."""
    return list(
        session.exec(
            select(ModelVersion)
            .where(
                col(ModelVersion.dataset_id).in_(
                    select(Example.dataset_id).where(col(Example.inference_id) == inference_id)
                )
            )
            .order_by(col(ModelVersion.id))
        )
    )


def _parents(session: Session, dataset: DatasetVersion) -> list[str]:
    """The dataset versions that this one grew from, nearest first."""
    parents: list[str] = []
    above = dataset.parent_id
    while above is not None and above not in parents:
        parents.append(above)
        row = session.get(DatasetVersion, above)
        above = row.parent_id if row is not None else None
    return parents


def _examples(session: Session, dataset_id: str) -> list[dict[str, Any]]:
    """Each example with the feedback and inference that it was made of; imported ones name their import, and base examples
    come from the model's own file."""
    rows = session.exec(
        select(Example, Feedback.content_hash, Inference.content_hash, DataImport.content_hash)
        .outerjoin(Feedback, col(Feedback.id) == col(Example.feedback_id))
        .outerjoin(Inference, col(Inference.id) == col(Example.inference_id))
        .outerjoin(DataImport, col(DataImport.id) == col(Example.import_id))
        .where(Example.dataset_id == dataset_id)
        .order_by(col(Example.position))
    )
    return [
        {
            "position": example.position,
            "content_hash": example.content_hash,
            "split": example.split,
            "source": example.source,
            "new": example.new,
            "rater": example.rater,
            "feedback_id": example.feedback_id,
            "feedback_hash": feedback_hash,
            "inference_id": example.inference_id,
            "inference_hash": inference_hash,
            "import_id": example.import_id,
            "import_hash": import_hash,
        }
        for example, feedback_hash, inference_hash, import_hash in rows
    ]
