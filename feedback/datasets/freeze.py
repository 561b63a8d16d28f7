"""Building a dataset version: reads the record, curates, freezes the rows as files, writes the lineage.

Files come first and the row in the database last, so a version that is listed is complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert
from sqlmodel import Session, col, select

from feedback.datasets.candidates import accepted_candidates
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import HeldBack, choose_corrections, refuse_too_few
from feedback.datasets.files import SPLITS, Frozen, check_files, freeze_files, read_rows
from feedback.datasets.imported import choose_imported, with_imported
from feedback.datasets.ladder import Targets, climb
from feedback.datasets.manifest import RULES, Row, counts, line_of, rater_facts, told
from feedback.datasets.methods import REPLAYED
from feedback.datasets.opinions import weigh_opinions
from feedback.datasets.praised import keep_praised
from feedback.datasets.rated import cap_rated, choose_rated
from feedback.datasets.replay import CONTRADICTED, choose_replay
from feedback.datasets.said import Example, Pair
from feedback.datasets.splits import validates
from feedback.datasets.standing import write_standing
from feedback.datasets.votes import REVIEWER
from feedback.datasets.weighing import Gathered, gather
from feedback.errors import ConflictError, NotFoundError, StorageError
from feedback.registry.models import get_model
from feedback.registry.versions import get_version
from feedback.settings import Dataset, Settings
from feedback.storage.case_table import JUDGING
from feedback.storage.database import Database
from feedback.storage.tables import Case, DataImport, DatasetVersion
from feedback.storage.tables import Example as ExampleRow

__all__ = ["SPLITS", "build_dataset", "check_files", "read_rows"]

_REPLAYED = ("replay", "base")


def build_dataset(
    database: Database,
    settings: Settings,
    model: str,
    dataset_id: str,
    guards_off: Collection[str],
    now: datetime,
) -> DatasetVersion:
    """Curate and freeze the model's next dataset version under `dataset_id`; asked again, the same one is returned.

    What waits, and why, is written to the failure cases also where there is too little for a version. Raises
    `DataRefusedError` then, `ConflictError` when the split share changed, `NotFoundError` for an unknown model,
    `StorageError` when its files cannot be written or are not what was frozen.
    """
    configured = settings.model_named(model)
    if configured is None:
        raise NotFoundError(f"there is no [[model]] named {model!r} in the configuration")
    rules = settings.dataset
    if (existing := frozen_before(database, settings, model, dataset_id)) is not None:
        return existing
    with database.reading() as session:
        parent, learned, held = _champion_dataset(session, model)
    contract = TaskContract.from_settings(configured)
    gathered = gather(database, settings, configured, contract, now, guards_off)
    with database.session() as session:
        keep_praised(session, model, gathered, contract, settings, now)
        session.commit()
    with database.reading() as session:
        judging = set(
            session.exec(select(Case.group_key).where(Case.model == model, col(Case.state).in_(JUDGING)))
        )
        accepted = accepted_candidates(session, model, settings.teacher.accept == "checked")
    corrections = choose_corrections(
        gathered.said, judging, learned.keys(), contract, rules, guards_off, gathered.trust, accepted
    )
    apart = _held_out(gathered, judging, contract)
    waits = apart.waits | corrections.waits
    with database.session() as session:
        targets = [*corrections.examples, *apart.examples]
        if write_standing(session, model, gathered.said, targets, waits, now):
            session.commit()
    left_out: Counter[str] = Counter()
    taught = choose_imported(gathered.imported, judging, learned, contract, left_out)
    corrections = with_imported(corrections, gathered.imported, taught, left_out)
    pairs = sorted(corrections.pairs, key=order_of)
    used = {one.inference_id for one in corrections.examples} | {one.inference_id for one in pairs}
    rated = choose_rated(gathered.said, judging, used, gathered.trust, held)
    over = HeldBack()
    if "raters" not in guards_off:
        rated, over = cap_rated(rated, rules, _reviews(gathered))
    opinions = weigh_opinions(
        settings.training.method, corrections.examples, pairs, rated, held, rules.validation_share, over
    )
    refuse_too_few(corrections, rules, guards_off, *opinions)
    replay = choose_replay(
        gathered.said,
        gathered.base,
        corrections.examples,
        judging,
        contract,
        rules,
        guards_off,
        gathered.trust,
        left_out,
        opinions.worth,
    )
    rows = rows_of(corrections.examples, replay, rules)
    holdout = sorted(apart.examples, key=order_of)
    # An answer that is a base example as well stays: that users rated it well is what there is to know of it.
    praised = [one for one in replay if one.source == REPLAYED]
    counted = {one.inference_id for one in praised} | {one.content_hash for one in praised}
    rated = sorted((one for one in rated if not counted & {one.inference_id, one.content_hash}), key=order_of)
    frozen = Frozen.of(
        {split: map(line_of, [one for side, one in rows if side == split]) for split in SPLITS}
        | {
            "pairs": map(pair_line, pairs),
            "holdout": map(line_of, holdout),
            "rated": ({**line_of(example), "good": example.source == "rated+"} for example in rated),
        }
    )
    gone = {key for key, source in learned.items() if source not in _REPLAYED}
    gone -= {example.content_hash for example in corrections.examples}
    manifest = {
        "id": dataset_id,
        "model": model,
        "parent_id": parent,
        "created": now.isoformat(),
        "content_hash": frozen.content_hash,
        "note": told(corrections, len(replay), contract, gone, rated if opinions.worth else ()),
        "rules": RULES,
        "guards_off": sorted(guards_off),
        "settings": msgspec.to_builtins(rules),
        "counts": counts(rows, contract, len(pairs), len(holdout), len(rated)),
        "left_out": {
            **corrections.dropped,
            **{why: left_out[why] for why in (CONTRADICTED,) if left_out[why]},
        },
        "pii": gathered.personal,
        "imports": imports_told(gathered.imports),
        "rater_cap": {
            "cap": corrections.held.cap,
            "raters": corrections.held.raters,
            "corrections": corrections.held.corrections,
        },
        "raters": rater_facts(corrections, gathered.trust),
        "took_out": len(gone),
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
    beside: list[tuple[str, Example | Pair]] = [("pairs", pair) for pair in pairs]
    beside += [("holdout", example) for example in holdout]
    beside += [("rated", example) for example in rated]
    keep_version(database, version, [*rows, *beside])
    return version


def frozen_before(
    database: Database, settings: Settings, model: str, dataset_id: str
) -> DatasetVersion | None:
    """The version that stands under that id already. Raises `StorageError` where its files are not what was frozen.

    Before one is made, `ConflictError` where the split share changed.
    """
    with database.reading() as session:
        existing = session.get(DatasetVersion, dataset_id)
        if existing is None:
            _check_share(session, model, settings.dataset)
    if existing is not None and not check_files(settings.directory, existing.id, existing.content_hash):
        raise StorageError(
            f"dataset {dataset_id}: its files are not those that were frozen; restore them from a backup, or start "
            "a new cycle"
        )
    return existing


def keep_version(
    database: Database, version: DatasetVersion, examples: Sequence[tuple[str, Example | Pair]]
) -> None:
    """Write a version's row and where each of its examples came from."""
    with database.session() as session:
        session.add(version)
        session.flush()
        session.connection().execute(insert(ExampleRow), _lineage(version.id, examples))
        session.commit()


def _held_out(gathered: Gathered, judging: Collection[str], contract: TaskContract) -> Targets:
    """Failures of the evaluation side with a target that would be believed: never trained on, kept to be looked at."""
    said = [replace(one, side="train") for one in gathered.said if one.side == "evaluation"]
    return climb(said, judging, (), contract, gathered.trust)


def rows_of(corrections: Sequence[Example], replay: Sequence[Example], rules: Dataset) -> list[Row]:
    """In the order of their hashes: the same examples always give the same files."""
    return [
        ("validation" if validates(example.group_key, rules.validation_share) else "train", example)
        for example in sorted([*corrections, *replay], key=order_of)
    ]


def imports_told(imports: Sequence[DataImport]) -> list[dict[str, str]]:
    """Imports as they stand in a manifest."""
    return [
        {"id": entry.id, "name": entry.name, "content_hash": entry.content_hash, "use": entry.use}
        for entry in imports
    ]


def order_of(example: Example | Pair) -> str:
    """What rows are sorted by."""
    return example.content_hash


def pair_line(pair: Pair) -> dict[str, Any]:
    """A pair as a row of `pairs.jsonl`."""
    tools = {"tools": pair.tools} if pair.tools else {}
    return {
        "id": pair.content_hash,
        "messages": pair.messages,
        **tools,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "source": pair.source,
        "group": pair.group_key,
    }


def _lineage(dataset_id: str, rows: Sequence[tuple[str, Example | Pair]]) -> list[dict[str, Any]]:
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


def _champion_dataset(session: Session, model: str) -> tuple[str | None, dict[str, str], set[str]]:
    """What the present champion was trained on: the parent, the content hashes in it with their sources, and those of all that the
    parent held for learning, pairs and rated answers too."""
    champion = get_model(session, model).champion
    parent = get_version(session, model, champion).dataset_id if champion else None
    if parent is None:
        return None, {}, set()
    known = session.get(DatasetVersion, parent)
    if known is not None and known.manifest.get("erasures"):
        # The champion knows what was erased since. Its successor learns the rest afresh, all of it new.
        return parent, {}, set()
    query = select(ExampleRow.content_hash, ExampleRow.source, ExampleRow.split).where(
        ExampleRow.dataset_id == parent, col(ExampleRow.split) != "holdout"
    )
    rows = session.exec(query).all()
    learned = {identity: source for identity, source, split in rows if split in SPLITS}
    return parent, learned, {identity for identity, _, _ in rows}


def _reviews(gathered: Gathered) -> set[str]:
    """Feedback that reviewers gave."""
    return {
        signal.feedback_id for one in gathered.said for signal in one.signals if signal.source == REVIEWER
    }


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
