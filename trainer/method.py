"""What a frozen dataset version holds that a method could learn from, read from its files a line at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from feedback.datasets.methods import PREFERENCE, Evidence, Method
from feedback.errors import DataRefusedError, StorageError

PAIRS, RATED = "pairs.jsonl", "rated.jsonl"
"""`{messages, chosen, rejected, source, group}` and `{messages, answer, good, group}`; a dataset version may have neither."""
_NEEDED = {PAIRS: ("chosen", "rejected"), RATED: ("answer", "good")}


def evidence_of(dataset: Path) -> Evidence:
    """Count the files; pairs and rated answers of prompts that watch the training do not count."""
    held_out = _held_out(dataset)
    return Evidence.of(
        ((str(row.get("source")), bool(row.get("new"))) for row in read(dataset / "train.jsonl")),
        (str(row.get("source")) for row in _learned(dataset / PAIRS, held_out)),
        (bool(row["good"]) for row in _learned(dataset / RATED, held_out)),
    )


def rows_for(dataset: Path, method: Method) -> Iterator[dict[str, Any]]:
    """Every answer that the method passes over in an epoch, as a row like those of `train.jsonl`."""
    yield from read(dataset / "train.jsonl")
    if method == "sft":
        return
    held_out = _held_out(dataset)
    for pair in _learned(dataset / PAIRS, held_out):
        yield {**pair, "answer": pair["rejected"]}
        if method == "dpo" and pair.get("source") == PREFERENCE:  # other better answers stand among the rows
            yield {**pair, "answer": pair["chosen"]}
    if method == "kto":
        yield from _learned(dataset / RATED, held_out)


def hash_of_learned(dataset: Path, method: Method) -> str:
    """SHA-256 over the files that the method learns from: what else was frozen may differ. Raises `StorageError`."""
    names = ["train.jsonl", "validation.jsonl"]
    names += [] if method == "sft" else [PAIRS] if method == "dpo" else [PAIRS, RATED]
    overall = hashlib.sha256()
    for path in (dataset / name for name in names):
        try:
            with path.open("rb") as rows:
                overall.update(hashlib.file_digest(rows, "sha256").digest())
        except FileNotFoundError:
            overall.update(b"none")
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    return overall.hexdigest()


def _held_out(dataset: Path) -> set[Any]:
    return {row.get("group") for row in read(dataset / "validation.jsonl")}


def _learned(file: Path, held_out: Set[Any]) -> Iterator[dict[str, Any]]:
    return (row for row in read(file) if row.get("group") not in held_out)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a frozen file, none where there is no such file. Raises `DataRefusedError` for a damaged one."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line.decode())
            except ValueError as error:
                raise DataRefusedError(
                    f"{path}:{number}: is not a JSON row ({error}); the file was changed or cut after it was frozen"
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
                raise DataRefusedError(
                    f"{path}:{number}: is no row with messages; the file was changed after it was frozen"
                )
            if lacking := [name for name in _NEEDED.get(path.name, ()) if name not in row]:
                raise DataRefusedError(
                    f"{path}:{number}: lacks {' and '.join(lacking)}; the file was changed after it was frozen"
                )
            yield row
