"""What a frozen dataset version holds that a method could learn from, read from its files a line at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feedback.datasets.methods import Evidence
from feedback.errors import DataRefusedError

PAIRS, RATED = "pairs.jsonl", "rated.jsonl"
"""`{messages, chosen, rejected, source, group}` and `{messages, answer, good, group}`; a dataset version may have neither."""


def evidence_of(dataset: Path) -> Evidence:
    """Count the files; pairs and rated answers of prompts that watch the training do not count."""
    held_out = {row.get("group") for row in read(dataset / "validation.jsonl")}

    def learned(name: str) -> Iterator[dict[str, Any]]:
        return (row for row in read(dataset / name) if row.get("group") not in held_out)

    return Evidence.of(
        ((str(row.get("source")), bool(row.get("new"))) for row in read(dataset / "train.jsonl")),
        (str(row.get("source")) for row in learned(PAIRS)),
        (bool(row["good"]) for row in learned(RATED)),
    )


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a frozen file, none where there is no such file. Raises `DataRefusedError` for a damaged one."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataRefusedError(
                    f"{path}:{number}: is not a JSON row ({error}); the file was changed or cut after it was frozen"
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
                raise DataRefusedError(
                    f"{path}:{number}: is no row with messages; the file was changed after it was frozen"
                )
            yield row
