"""Log files of children: appended to, kept for a few starts, and never larger than a limit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from feedback.errors import StorageError

KEPT = 5
LIMIT = 20_000_000
"""Bytes at which a log of a running child is set aside."""


_TAIL = 50_000  # bytes looked through for what a child said last
_TELLING = re.compile(r"\b\w*(Error|Exception|error):")


def open_log(path: Path) -> BinaryIO:
    """A fresh log for a starting child; the one before becomes `<name>.1`, that one `.2`, and so on to `KEPT`."""
    try:
        if path.exists() and path.stat().st_size:
            _shift(path)
            path.rename(_numbered(path, 1))
        return path.open("ab")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); check space and permissions"
        ) from error


def trim_log(path: Path, limit: int = LIMIT) -> None:
    """Set aside what a running child wrote once it passes `limit`.

    Copied and cut rather than renamed, as the child holds the file open (appending, so that it goes on at the start).
    """
    try:
        if path.stat().st_size <= limit:
            return
        _shift(path)
        with path.open("rb") as source, _numbered(path, 1).open("wb") as target:
            source.seek(-limit, 2)
            target.write(source.read(limit))
        os.truncate(path, 0)
    except OSError:
        return  # a log must not stop what it tells of; it is tried again


def last_words(path: Path, count: int = 3) -> list[str]:
    """Why a child ended, from its log: the last lines that tell of an error, or simply the last."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    said = [line.rstrip() for line in lines if line.strip()]
    return ([line for line in said if _TELLING.search(line)] or said)[-count:]


def _shift(path: Path) -> None:
    for number in range(KEPT - 1, 0, -1):
        if _numbered(path, number).exists():
            _numbered(path, number).replace(_numbered(path, number + 1))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
