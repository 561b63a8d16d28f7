"""Rows that could not go on their way, kept as files beside the journals for a person to look at.

`<journal>-<seq>.damaged` holds what is left of a record that no longer is what was written (`<first>+<seq>`: of several in
a row); `.refused` a sound record that the database would not take. Nothing deletes them: `db verify` counts them until
someone has.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args

from feedback.storage.journal_file import FOLDER

Kind = Literal["damaged", "refused"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_NUMBERS = re.compile(r"-([0-9]+)\+([0-9]+)$")


def set_aside(
    directory: Path, journal: str, seq: int, body: bytes, kind: Kind, first: int | None = None
) -> Path:
    """Keep the bytes of a record, or of those from `first` to `seq`; doing it again for the same ones changes nothing."""
    path = _path(directory, journal, seq, kind, first)
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
    """How many records of this kind are kept."""
    found = [_NUMBERS.search(path.stem) for path in (directory / FOLDER).glob(f"*.{kind}")]
    return sum(1 if one is None else int(one[2]) - int(one[1]) + 1 for one in found)


def _path(directory: Path, journal: str, seq: int, kind: Kind, first: int | None = None) -> Path:
    numbers = str(seq) if first is None or first == seq else f"{first}+{seq}"
    return directory / FOLDER / f"{journal}-{numbers}.{kind}"
