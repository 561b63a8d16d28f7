"""Building a dataset version: reads the record, curates, freezes the rows as files, writes the lineage.

Files come first and the row in the database last, so a version that is listed is complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert
from sqlmodel import Session, col, select

from feedback.datasets.chat import base_examples, last_user_text
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import Corrections, Example, choose_corrections
from feedback.datasets.evidence import place_prompts, placed, placed_base, read_heard
from feedback.datasets.files import SPLITS, Frozen, check_files, freeze_files, read_rows
from feedback.datasets.imported import choose_imported, placed_imported, read_imported
from feedback.datasets.replay import choose_replay
from feedback.datasets.splits import validates
from feedback.errors import ConflictError, DataRefusedError, NotFoundError, StorageError
from feedback.imports.storing import list_imports
from feedback.privacy.screening import screened
from feedback.registry.models import get_model
from feedback.registry.versions import get_version
from feedback.settings import Dataset, Settings
from feedback.storage.database import Database
from feedback.storage.tables import Case, DatasetVersion
from feedback.storage.tables import Example as ExampleRow

__all__ = ["SPLITS", "build_dataset", "check_files", "read_rows"]

RULES = 1
"""Raised whenever curation would choose otherwise from the same record."""
_NAMED = 6


def build_dataset(
    database: Database,
    settings: Settings,
    model: str,
    dataset_id: str,
    guards_off: Collection[str],
    now: datetime,
) -> DatasetVersion:
    """Curate and freeze the model's next dataset version under `dataset_id`; asked again, the same one is returned.

    Raises `DataRefusedError` when there is too little to train on, `ConflictError` when the split share changed,
    `NotFoundError` for an unknown model, `StorageError` when its files cannot be written or are not what was frozen.
    """
    configured = settings.model_named(model)
    if configured is None:
        raise NotFoundError(f"there is no [[model]] named {model!r} in the configuration")
    rules, share = settings.dataset, settings.dataset.evaluation_share
    with database.reading() as session:
        existing = session.get(DatasetVersion, dataset_id)
        if existing is None:
            _check_share(session, model, rules)
            parent, learned = _champion_dataset(session, model)
            heard = read_heard(session, model)
            imports = list_imports(session, model)
    if existing is not None:
        if not check_files(settings.directory, existing.id, existing.content_hash):
            raise StorageError(
                f"dataset {dataset_id}: its files are not those that were frozen; restore them from a backup, or start "
                "a new cycle"
            )
        return existing
    contract = TaskContract.from_settings(configured)
    examples = base_examples(configured)
    learn, old = (
        read_imported(settings.directory, imports, use, rules.imported) for use in ("learn", "replay")
    )
    prompts = [last_user_text(one.messages) for one in heard] + [row.prompt for row in examples]
    prompts += [one.conversation.prompt for one in (*learn, *old)]
    groups = place_prompts(database, prompts, rules)
    with database.reading() as session:
        judging = set(
            session.exec(select(Case.group_key).where(Case.model == model, Case.state != "dropped"))
        )
    base = placed_base(examples, groups, share) + placed_imported(old, groups, share)
    learnable = placed_imported(learn, groups, share)
    said, base, learnable, personal = screened(placed(heard, groups, share), base, learnable, rules.pii)
    left_out: Counter[str] = Counter()
    taught = choose_imported(learnable, judging, learned, contract, left_out)
    try:
        corrections = choose_corrections(said, judging, learned, contract, rules, guards_off, taught)
    except DataRefusedError as error:
        told = ", ".join(f"{count} {why}" for why, count in left_out.items())
        raise DataRefusedError(f"{error} Rows left out: {told}." if told else str(error)) from None
    replay = choose_replay(said, base, corrections.examples, judging, contract, rules, guards_off)
    rows = _rows(corrections.examples, replay, rules)
    frozen = Frozen.of(
        {split: [_line(example) for side, example in rows if side == split] for split in SPLITS}
    )
    manifest = {
        "id": dataset_id,
        "model": model,
        "parent_id": parent,
        "created": now.isoformat(),
        "content_hash": frozen.content_hash,
        "note": _note(corrections, len(replay), contract),
        "rules": RULES,
        "guards_off": sorted(guards_off),
        "settings": msgspec.to_builtins(rules),
        "counts": _counts(rows, contract),
        "left_out": corrections.dropped | left_out,
        "pii": personal,
        "imports": [
            {"id": entry.id, "name": entry.name, "content_hash": entry.content_hash, "use": entry.use}
            for entry in imports
        ],
        "rater_cap": {
            "cap": corrections.held.cap,
            "raters": corrections.held.raters,
            "corrections": corrections.held.corrections,
        },
    }
    freeze_files(settings.directory, dataset_id, frozen, manifest)
    version = DatasetVersion(
        id=dataset_id,
        model=model,
        parent_id=parent,
        content_hash=frozen.content_hash,
        created=now.timestamp(),
        note=manifest["note"],
        manifest=manifest,
    )
    with database.session() as session:
        session.add(version)
        session.flush()
        session.connection().execute(insert(ExampleRow), _lineage(dataset_id, rows))
        session.commit()
    return version


Row = tuple[str, Example]
"""Split and example."""


def _rows(corrections: Sequence[Example], replay: Sequence[Example], rules: Dataset) -> list[Row]:
    """In the order of their hashes: the same examples always give the same files."""
    examples = sorted([*corrections, *replay], key=lambda example: example.content_hash)
    return [
        ("validation" if validates(example.group_key, rules.validation_share) else "train", example)
        for example in examples
    ]


def _line(example: Example) -> dict[str, Any]:
    return {
        "id": example.content_hash,
        "messages": example.messages,
        "answer": example.answer,
        "weight": 1.0,
        "new": example.new,
        "source": example.source,
        "group": example.group_key,
    }


def _note(corrections: Corrections, replayed: int, contract: TaskContract) -> str:
    """What changed since the parent, in one sentence."""
    new = corrections.new
    kinds = Counter(kind for example in new if (kind := contract.slice_of(example.answer)) is not None)
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_NAMED))
    more = f" and {len(kinds) - _NAMED} kinds more" if len(kinds) > _NAMED else ""
    told = f"added {len(new)} example{'' if len(new) == 1 else 's'}" + (f": {named}{more}" if named else "")
    carried = len(corrections.examples) - len(new)
    return f"{told}; {f'kept {carried} and ' if carried else ''}replayed {replayed}"


def _counts(rows: Sequence[Row], contract: TaskContract) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "new": sum(example.new for _, example in rows),
        "splits": dict(Counter(split for split, _ in rows)),
        "sources": dict(Counter(example.source for _, example in rows)),
        "slices": dict(Counter(contract.slice_of(example.answer) or "all" for _, example in rows)),
    }


def _lineage(dataset_id: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "dataset_id": dataset_id,
            "position": position,
            "content_hash": example.content_hash,
            "split": split,
            "source": example.source,
            "new": example.new,
            "group_key": example.group_key,
            "inference_id": example.inference_id,
            "feedback_id": example.feedback_id,
            "rater": example.rater,
            "import_id": example.import_id,
        }
        for position, (split, example) in enumerate(rows)
    ]


def _champion_dataset(session: Session, model: str) -> tuple[str | None, set[str]]:
    """What the present champion was trained on: the parent, and the content hashes in it."""
    champion = get_model(session, model).champion
    parent = get_version(session, model, champion).dataset_id if champion else None
    if parent is None:
        return None, set()
    known = session.get(DatasetVersion, parent)
    if known is not None and known.manifest.get("erasures"):
        # The champion knows what was erased since. Its successor learns the rest afresh, all of it new.
        return parent, set()
    return parent, set(session.exec(select(ExampleRow.content_hash).where(ExampleRow.dataset_id == parent)))


def split_share(session: Session, model: str) -> float | None:
    """The evaluation share by which the model's data was last split; None before its first dataset version."""
    newest = (
        select(DatasetVersion).where(DatasetVersion.model == model).order_by(col(DatasetVersion.id).desc())
    )
    last = session.exec(newest.limit(1)).first()
    return None if last is None else float(last.manifest["settings"]["evaluation_share"])


def _check_share(session: Session, model: str, rules: Dataset) -> None:
    """Another share would move rows from one side to the other, and training would meet what it is judged by."""
    was = split_share(session, model)
    if was is not None and was != rules.evaluation_share:
        raise ConflictError(
            f"[dataset] evaluation_share is {rules.evaluation_share:g}, but the data of {model!r} was split at {was:g}; "
            "sides must never change, so set it back"
        )
