"""Rows that could not go on their way, kept as files beside the journals for a person to look at.

`<journal>-<seq>.damaged` holds what is left of a row that no longer is what was written; `.refused` a sound record that
the database would not take. Nothing deletes them: `db verify` counts them until someone has.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from feedback.storage.journal_file import FOLDER

Kind = Literal["damaged", "refused", "unreadable"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def set_aside(directory: Path, journal: str, seq: int, body: bytes, kind: Kind) -> Path:
    """Keep a row's bytes; doing it again for the same row changes nothing."""
    path = _path(directory, journal, seq, kind)
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return path


def is_refused(directory: Path, journal: str, seq: int) -> bool:
    """Whether this row of a journal was kept because the database would not take it."""
    return _path(directory, journal, seq, "refused").exists()


def count_aside(directory: Path, kind: Kind) -> int:
    """How many rows of this kind are kept."""
    return sum(1 for _ in (directory / FOLDER).glob(f"*.{kind}"))


def _path(directory: Path, journal: str, seq: int, kind: Kind) -> Path:
    return directory / FOLDER / f"{journal}-{seq}.{kind}"
