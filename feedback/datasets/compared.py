"""What differs between two dataset versions: examples that came, that went, and prompts that got another answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlmodel import Session, col, select

from feedback.datasets.chat import last_user_text
from feedback.datasets.differences import Part, word_difference
from feedback.datasets.files import SPLITS, read_rows
from feedback.storage.tables import DatasetVersion, Example

SHOWN = 10
"""Examples shown of each kind."""


class Side(NamedTuple):
    """An example that only one of the two has."""

    split: str
    source: str
    prompt: str
    answer: str


class Changed(NamedTuple):
    """A prompt that both have, with another answer."""

    prompt: str
    difference: list[Part]


class Compared(NamedTuple):
    """Counts of examples, and some of each kind. Erased examples are in none."""

    kept: int
    added: int
    removed: int
    changed: int
    added_ones: list[Side]
    removed_ones: list[Side]
    changed_ones: list[Changed]


def compare_datasets(
    session: Session, directory: Path, before: DatasetVersion, after: DatasetVersion
) -> Compared:
    """From one version to another, over their training and validation examples.

    Reads both files once. Raises `NotFoundError` where one of them is not there.
    """
    old, new = _hashes(session, before.id), _hashes(session, after.id)
    gone = {_asked(row): (split, row) for split, row in _rows(directory, before.id, old - new)}
    came = {_asked(row): (split, row) for split, row in _rows(directory, after.id, new - old)}
    both = [prompt for prompt in came if prompt in gone]
    added = [_side(*came[prompt]) for prompt in came if prompt not in gone]
    removed = [_side(*gone[prompt]) for prompt in gone if prompt not in came]
    changed = [
        Changed(
            last_user_text(came[prompt][1]["messages"]),
            word_difference(gone[prompt][1]["answer"], came[prompt][1]["answer"]),
        )
        for prompt in both[:SHOWN]
    ]
    kept = len(old & new)
    return Compared(kept, len(added), len(removed), len(both), added[:SHOWN], removed[:SHOWN], changed)


def _hashes(session: Session, dataset_id: str) -> set[str]:
    query = select(Example.content_hash).where(
        Example.dataset_id == dataset_id, col(Example.split).in_(SPLITS), col(Example.erased).is_(None)
    )
    return set(session.exec(query))


def _rows(directory: Path, dataset_id: str, wanted: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not wanted:
        return
    for split in SPLITS:
        for row in read_rows(directory, dataset_id, split):
            if row["id"] in wanted:
                yield split, row


def _asked(row: Mapping[str, Any]) -> str:
    return json.dumps(row["messages"], sort_keys=True, ensure_ascii=False)


def _side(split: str, row: Mapping[str, Any]) -> Side:
    return Side(split, row["source"], last_user_text(row["messages"]), row["answer"])
