"""A dataset version of one file alone, as somebody asked for a fine-tuning on it: by the rules that imports have.

Rows of the evaluation side, and those near a case that versions are judged by, are left out and counted: whoever asks
for a fine-tuning cannot teach a version what it will be judged by (invariant 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlmodel import Session, col, select

from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import Corrections
from feedback.datasets.evidence import place_prompts
from feedback.datasets.files import SPLITS, Frozen, freeze_files
from feedback.datasets.freeze import frozen_before, imports_told, keep_version, order_of, pair_line, rows_of
from feedback.datasets.imported import choose_imported, imported_pairs, placed_imported, read_imported
from feedback.datasets.manifest import RULES, counts, line_of, rater_facts
from feedback.datasets.raters import EVERYBODY
from feedback.datasets.said import BaseExample, Example, Pair
from feedback.errors import DataRefusedError, NotFoundError
from feedback.privacy.screening import screened
from feedback.settings import Settings
from feedback.storage.case_table import JUDGING
from feedback.storage.database import Database
from feedback.storage.tables import Case, DataImport, DatasetVersion

FEWEST = 10
"""Examples that a file must leave to learn from, as in OpenAI's API."""
_TWICE = "imported, in the training file too"


def freeze_file(
    database: Database,
    settings: Settings,
    model: str,
    dataset_id: str,
    training: DataImport,
    validation: DataImport | None,
    origin: str,
    now: datetime,
) -> DatasetVersion:
    """Freeze one import as a dataset version under `dataset_id`; asked again, the same one is returned.

    Without `validation`, a share of the file is held out to watch the training by, as in a cycle. `origin` is who asked for
    it, for the manifest. Raises `DataRefusedError` where too little is left, and what `build_dataset` raises.
    """
    configured = settings.model_named(model)
    if configured is None:
        raise NotFoundError(f"there is no [[model]] named {model!r} in the configuration")
    if (existing := frozen_before(database, settings, model, dataset_id)) is not None:
        return existing
    rules, contract = settings.dataset, TaskContract.from_settings(configured)
    with database.reading() as session:
        judging = _judging(session, model)
    left_out: Counter[str] = Counter()
    placed, personal = _placed(database, settings, training)
    taught = choose_imported(placed, judging, (), contract, left_out)
    pairs = sorted(imported_pairs(placed, taught), key=order_of)
    if validation is None:
        rows = rows_of(taught, (), rules)
    else:
        watched = choose_imported(_placed(database, settings, validation)[0], judging, (), contract, left_out)
        groups = {one.group_key for one in taught}
        apart = [one for one in watched if one.group_key not in groups]
        left_out[_TWICE] += len(watched) - len(apart)
        rows = [("train", one) for one in sorted(taught, key=order_of)]
        rows += [("validation", one) for one in sorted(apart, key=order_of)]
    dropped = {reason: count for reason, count in left_out.items() if count}
    told = "; ".join(f"{count} left out ({reason})" for reason, count in sorted(dropped.items()))
    if len(taught) < FEWEST:
        raise DataRefusedError(
            f"{training.name}: {len(taught)} examples are left to learn from, and {FEWEST} are the fewest"
            + (f"; {told}" if told else "")
        )
    frozen = Frozen.of(
        {split: [line_of(one) for side, one in rows if side == split] for split in SPLITS}
        | {"pairs": [pair_line(pair) for pair in pairs]}
    )
    corrections = Corrections(taught, dropped, pairs=pairs)
    manifest = {
        "id": dataset_id,
        "model": model,
        "parent_id": None,
        "created": now.isoformat(),
        "content_hash": frozen.content_hash,
        "note": f"{len(taught)} examples of the file {training.name}, for {origin}"
        + (f"; {told}" if told else ""),
        "rules": RULES,
        "guards_off": [],
        "settings": msgspec.to_builtins(rules),
        "counts": counts(rows, contract, len(pairs), 0, 0),
        "left_out": dropped,
        "pii": personal,
        "imports": imports_told([training, *([validation] if validation else [])]),
        "rater_cap": {"cap": corrections.held.cap, "raters": 0, "corrections": 0},
        "raters": rater_facts(corrections, EVERYBODY),
        "took_out": 0,
        "origin": origin,
    }
    freeze_files(settings.directory, dataset_id, frozen, manifest)
    version = DatasetVersion(
        id=dataset_id,
        model=model,
        parent_id=None,
        content_hash=frozen.content_hash,
        created=now.timestamp(),
        note=str(manifest["note"]),
        manifest=manifest,
    )
    beside: list[tuple[str, Example | Pair]] = [("pairs", pair) for pair in pairs]
    keep_version(database, version, [*rows, *beside])
    return version


def _placed(
    database: Database, settings: Settings, entry: DataImport
) -> tuple[Sequence[BaseExample], dict[str, object]]:
    """An import's answers with group and side, personal data dealt with as `[dataset] pii` says."""
    rules = settings.dataset
    answers = read_imported(settings.directory, [entry], (entry.use,), rules.imported)
    groups = place_prompts(database, [one.conversation.prompt for one in answers], rules)
    kept = screened([], [], placed_imported(answers, groups, rules.evaluation_share), rules.pii)
    return kept.imported, kept.facts


def _judging(session: Session, model: str) -> set[str]:
    return set(session.exec(select(Case.group_key).where(Case.model == model, col(Case.state).in_(JUDGING))))
