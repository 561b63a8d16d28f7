"""The files of one journal: their names, and the lock that says whose they are.

    journal/<id>-<first>.log   a segment: the records from number <first> on
    journal/<id>.marks         how far the journal has come
    journal/<id>.lock          whoever holds the flock on it owns the journal

The kernel frees the lock when the owner dies, however it dies, and then another process adopts the journal. In code a
journal is named by its path without an ending.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import NamedTuple

from feedback.storage.marks import SUFFIX as MARKS

FOLDER = "journal"
_SEGMENT = ".log"
_DIGITS = 16
_NAME = re.compile(rf"(?P<journal>.+)-(?P<first>[0-9]{{{_DIGITS}}})\{_SEGMENT}")


class SegmentFile(NamedTuple):
    first: int
    """Number of its first record."""
    path: Path


def journals(directory: Path) -> list[Path]:
    """All journals under a data directory, the oldest first."""
    folder = directory / FOLDER
    found = {path.with_suffix("") for path in folder.glob(f"*{MARKS}")}
    for path in folder.glob(f"*{_SEGMENT}"):
        if (name := _NAME.fullmatch(path.name)) is not None:
            found.add(folder / name["journal"])
    return sorted(found)


def segment_path(journal: Path, first: int) -> Path:
    return journal.with_name(f"{journal.name}-{first:0{_DIGITS}d}{_SEGMENT}")


def segments(journal: Path) -> list[SegmentFile]:
    """The segments that are there, in order."""
    found = []
    for path in journal.parent.glob(f"{journal.name}-*{_SEGMENT}"):
        name = _NAME.fullmatch(path.name)
        if name is not None and name["journal"] == journal.name:
            found.append(SegmentFile(int(name["first"]), path))
    return sorted(found)


def stands(journal: Path) -> bool:
    """Whether any of its files is there."""
    return journal.with_suffix(MARKS).exists() or bool(segments(journal))


def lock(journal: Path) -> int | None:
    """Take a journal's flock; the descriptor that holds it, or None while another process has it."""
    descriptor = os.open(journal.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if os.fstat(descriptor).st_nlink == 0:  # its last owner removed it between the two calls
        os.close(descriptor)
        return None
    return descriptor


def release(descriptor: int) -> None:
    """Free the lock; whoever looks next may adopt the journal."""
    os.close(descriptor)


def remove(journal: Path) -> None:
    """Delete a journal that the caller owns; its lock is to be freed after.

    The marks go first: segments without marks are drained again, where marks without segments would tell of a loss.
    """
    journal.with_suffix(MARKS).unlink(missing_ok=True)
    for segment in segments(journal):
        segment.path.unlink(missing_ok=True)
    journal.with_suffix(".lock").unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder stand on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
