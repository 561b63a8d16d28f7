"""Where a version came from, and what became of an inference (invariant 3). Every step carries its content hash."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, or_, select

from feedback.errors import NotFoundError
from feedback.registry.adapters import adapter_name
from feedback.registry.versions import get_version
from feedback.storage.removal_tables import Tombstone
from feedback.storage.tables import (
    Case,
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
    """The versions that were trained on an example of this inference, oldest first.

    Answers that were only rated stand in many dataset versions, and only KTO trains on them.
    """
    query = (
        select(ModelVersion, Example.split)
        .join(Example, col(Example.dataset_id) == col(ModelVersion.dataset_id))
        .where(Example.inference_id == inference_id, Example.split != "holdout")
        .order_by(col(ModelVersion.id))
    )
    trained = {
        version.id: version
        for version, split in session.exec(query)
        if split != "rated" or version.facts.get("method") == "kto"
    }
    return list(trained.values())


def lineage_of_inference(session: Session, identifier: str) -> dict[str, Any]:
    """The other way: what was said about an inference, which examples and cases were made of it, which versions learned them.

    An erased one is found by its tombstone. Raises `NotFoundError` for an id that never stood here.
    """
    inference = session.get(Inference, identifier)
    stone = session.get(Tombstone, identifier)
    if inference is None and (stone is None or stone.kind != "inference"):
        raise NotFoundError(f"there is no inference {identifier[:60]!r} in the record")
    said = session.exec(
        select(Feedback).where(Feedback.inference_id == identifier).order_by(col(Feedback.id))
    )
    return {
        "inference": {
            "id": identifier,
            "content_hash": inference.content_hash if inference else stone.content_hash if stone else None,
            "erased": None if stone is None else datetime.fromtimestamp(stone.erased, UTC),
        },
        "feedback": [
            {"id": one.id, "rater": one.rater, "content_hash": one.content_hash, "current": one.current}
            for one in said
        ],
        "cases": _cases(session, col(Case.inference_id) == identifier),
        **_learned(session, col(Example.inference_id) == identifier),
    }


def lineage_of_user(session: Session, user: str) -> dict[str, Any]:
    """How much a user asked and said, which examples and cases were made of it, and which versions learned them."""
    asked = select(Inference.id).where(Inference.user == user)
    said = select(Feedback.id).where(Feedback.rater == user)
    return {
        "user": user,
        "inferences": session.exec(select(func.count()).select_from(asked.subquery())).one(),
        "feedback": session.exec(select(func.count()).select_from(said.subquery())).one(),
        "cases": _cases(session, col(Case.inference_id).in_(asked)),
        **_learned(
            session,
            or_(
                col(Example.inference_id).in_(asked),
                col(Example.feedback_id).in_(said),
                col(Example.rater) == user,
            ),
        ),
    }


def _cases(session: Session, of: ColumnElement[bool]) -> list[dict[str, Any]]:
    """What versions are judged by; `version` gave the answer where it was praised."""
    return [
        {"id": one.id, "suite": one.suite, "state": one.state, "version": one.version}
        for one in session.exec(select(Case).where(of).order_by(col(Case.id)))
    ]


def _learned(session: Session, of: ColumnElement[bool]) -> dict[str, Any]:
    examples = list(
        session.exec(select(Example).where(of).order_by(col(Example.dataset_id), col(Example.position)))
    )
    datasets = list(dict.fromkeys(one.dataset_id for one in examples))
    versions = session.exec(
        select(ModelVersion).where(col(ModelVersion.dataset_id).in_(datasets)).order_by(col(ModelVersion.id))
    )
    return {
        "examples": [
            {
                "dataset_id": one.dataset_id,
                "position": one.position,
                "content_hash": one.content_hash,
                "split": one.split,
                "source": one.source,
                "feedback_id": one.feedback_id,
                "inference_id": one.inference_id,
                "erased": one.erased is not None,
            }
            for one in examples
        ],
        "versions": [
            {
                "name": adapter_name(one.model, one.number),
                "state": one.state,
                "dataset_id": one.dataset_id,
                "adapter_hash": one.adapter_hash,
            }
            for one in versions
        ],
    }


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
    come from the model's own file. Of what was erased, the hashes are those on its tombstones.
    """
    said, asked = aliased(Tombstone), aliased(Tombstone)
    rows = session.exec(
        select(
            Example,
            func.coalesce(Feedback.content_hash, said.content_hash),
            func.coalesce(Inference.content_hash, asked.content_hash),
            DataImport.content_hash,
        )
        .outerjoin(Feedback, col(Feedback.id) == col(Example.feedback_id))
        .outerjoin(Inference, col(Inference.id) == col(Example.inference_id))
        .outerjoin(said, col(said.id) == col(Example.feedback_id))
        .outerjoin(asked, col(asked.id) == col(Example.inference_id))
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
            "erased": example.erased is not None,
        }
        for example, feedback_hash, inference_hash, import_hash in rows
    ]
