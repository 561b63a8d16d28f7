"""Takes erased rows out of frozen dataset versions, and says so in their manifests.

The files are rewritten without the rows, the manifest gets a signed entry that leads from the old content hash to the new
one, and the example's row stays in the lineage with a tombstone. Files come first and the database last: whoever is killed
in between finds the same rows to take out again, and taking them out twice changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, insert, update
from sqlmodel import Session, col, or_, select

from feedback.datasets.files import drop_rows, replace_manifest
from feedback.privacy.tombstones import Mason
from feedback.storage.database import Database
from feedback.storage.kept_figures import forget_figures
from feedback.storage.removal_tables import Erasure, Tombstone
from feedback.storage.tables import DatasetVersion, Example, Feedback, Inference

_CHUNK = 500


def examples_of(session: Session, user: str, erasure_id: str) -> dict[str, list[Example]]:
    """By dataset version, the examples that the user asked for or wrote, and those of what this erasure has removed.

    A well-rated answer to somebody else is theirs: who rated it is forgotten, the example stays (`forget_raters`).
    """
    asked = select(Inference.id).where(Inference.user == user)
    said = select(Feedback.id).where(Feedback.rater == user)
    gone = select(Tombstone.id).where(Tombstone.erasure_id == erasure_id)
    rows = session.exec(
        select(Example)
        .where(
            col(Example.erased).is_(None),
            or_(
                col(Example.inference_id).in_(asked),
                col(Example.inference_id).in_(gone),
                _written()
                & or_(
                    Example.rater == user,
                    col(Example.feedback_id).in_(said),
                    col(Example.feedback_id).in_(gone),
                ),
            ),
        )
        .order_by(col(Example.dataset_id), col(Example.position))
    )
    found: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        found[row.dataset_id].append(row)
    return dict(found)


def forget_raters(session: Session, user: str) -> int:
    """Take the user's name from the examples that stay; the caller commits."""
    statement = update(Example).where(col(Example.rater) == user).values(rater=None)
    return int(session.connection().execute(statement).rowcount)


def erase_examples(
    database: Database,
    directory: Path,
    dataset_id: str,
    rows: Sequence[Example],
    mason: Mason,
    erasure_id: str,
    now: datetime,
) -> int:
    """Take rows out of one dataset version; how many. Raises `StorageError` and `NotFoundError` with nothing noted."""
    after = drop_rows(directory, dataset_id, _droppable(database, dataset_id, rows))
    with database.reading() as session:
        version = session.get_one(DatasetVersion, dataset_id)
    manifest = _marked(version, after, len(rows), mason, now)
    replace_manifest(directory, dataset_id, manifest)
    erased = now.timestamp()
    stones = [
        mason.carve(
            "example", f"{dataset_id}:{row.position}", row.content_hash, erased, erasure_id
        ).model_dump()
        for row in rows
    ]
    positions = [row.position for row in rows]
    with database.session() as session:
        version = session.get_one(DatasetVersion, dataset_id)
        version.content_hash, version.manifest = after, manifest
        session.add(version)
        erasure = session.get_one(Erasure, erasure_id)
        erasure.datasets = sorted({*erasure.datasets, dataset_id})
        erasure.counts = erasure.counts | {"examples": erasure.counts.get("examples", 0) + len(rows)}
        session.add(erasure)
        session.flush()
        session.connection().execute(insert(Tombstone), stones)
        forget_figures(session)
        for start in range(0, len(positions), _CHUNK):
            session.connection().execute(
                update(Example)
                .where(
                    col(Example.dataset_id) == dataset_id,
                    col(Example.position).in_(positions[start : start + _CHUNK]),
                )
                .values(erased=erased, rater=None)
            )
        session.commit()
    return len(rows)


def links(manifest: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each erasure that a manifest tells of: what is signed, and the signature."""
    for one in manifest.get("erasures", []):
        yield (
            (str(manifest["id"]), one["before"], one["after"], str(one["rows"]), one["time"]),
            one["signature"],
        )


def _marked(version: DatasetVersion, after: str, count: int, mason: Mason, now: datetime) -> dict[str, Any]:
    told = (version.id, version.content_hash, after, str(count), now.isoformat())
    entry = {
        "time": now.isoformat(),
        "rows": count,
        "before": version.content_hash,
        "after": after,
        "signature": mason.sign("dataset", *told),
    }
    erasures = [*version.manifest.get("erasures", []), entry]
    return version.manifest | {
        "content_hash": after,
        "erased_rows": sum(one["rows"] for one in erasures),
        "erasures": erasures,
    }


def _droppable(database: Database, dataset_id: str, rows: Sequence[Example]) -> Collection[str]:
    """The rows' ids, and those of rows that were erased before: an interrupted rewrite may have left them."""
    with database.reading() as session:
        before = session.exec(
            select(Example.content_hash).where(
                Example.dataset_id == dataset_id, col(Example.erased).is_not(None)
            )
        )
        return {*(row.content_hash for row in rows), *before}


def _written() -> ColumnElement[bool]:
    """Examples whose answer the rater wrote, unlike those that were only praised."""
    return col(Example.source) != "replay"
