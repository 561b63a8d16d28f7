"""A file that is being sent: its bytes as they come, and how it is taken in once they are all here.

It stands in a folder that `storing.sweep` knows: whoever dies over it leaves it to be swept away.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from feedback.access.audit import Actor
from feedback.apart import answer_apart, ask_apart
from feedback.errors import BadInputError, ConflictError, NotFoundError, StorageError, TooLargeError
from feedback.ids import new_id
from feedback.imports.reading import Reading
from feedback.imports.storing import FOLDER, Intake, Use, import_file, sweep
from feedback.settings import Settings
from feedback.storage.database import opened


class Upload:
    """Bytes on their way to the disk. Used as a context manager; nothing of it is left at the end but what was kept."""

    def __init__(self, directory: Path, limit: int, now: datetime, within: str = FOLDER) -> None:
        """`limit` is the most bytes that it may have; it stands in the folder `within` of the data directory.

        Raises `StorageError` where nothing can be written.
        """
        folder = directory / within
        self._place = folder / f".{new_id(now)}.partial"
        self.path = self._place / "upload"
        self._limit = limit
        self._digest = hashlib.sha256()
        self.size = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sweep(folder)
            self._place.mkdir()
            self._lock = os.open(self._place / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._file = self.path.open("wb")
        except OSError as error:
            raise _no_room(folder, error) from error

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()
        shutil.rmtree(self._place, ignore_errors=True)
        os.close(self._lock)

    def write(self, piece: bytes) -> None:
        """Take a piece. Raises `TooLargeError` above the limit, `StorageError` when the disk is full."""
        self.size += len(piece)
        if self.size > self._limit:
            raise TooLargeError(
                f"the file has more than {self._limit} bytes; pack it with gzip or zstd, send it in parts, or raise [server] "
                "upload_limit"
            )
        self._digest.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            raise _no_room(self._place.parent, error) from error

    def end(self) -> None:
        """All of it has come. Raises `StorageError` when the disk is full."""
        try:
            self._file.close()
        except OSError as error:
            raise _no_room(self._place.parent, error) from error

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of what has come."""
        return self._digest.hexdigest()

    def keep(self, target: Path) -> None:
        """Move the whole file to its place in the same folder, flushed to disk. Raises `StorageError`."""
        try:
            with self.path.open("rb") as written:
                os.fsync(written.fileno())
            self.path.rename(target)
        except OSError as error:
            raise _no_room(self._place.parent, error) from error


class Taking(Struct, kw_only=True):
    """What the process is told."""

    settings: Settings
    file: str
    name: str
    model: str
    reading: Reading
    use: Use
    skip_bad: bool
    actor: str
    key_id: str | None


class Taken(Struct, kw_only=True):
    """What came of it; without an `entry` nothing was taken in."""

    entry: dict[str, Any] | None = None
    known: bool = False
    rows: int = 0
    bad_rows: int = 0
    bad: list[dict[str, Any]] = []
    refused: Literal["", "input", "conflict", "unknown"] = ""
    problem: str = ""


def take_apart(taking: Taking) -> Taken:
    """`import_file` in a process of its own. Raises what that and `ask_apart` raise."""
    taken = ask_apart("feedback.imports.uploads", taking, Taken, f"importing {taking.name[:80]!r}")
    if taken.refused:
        kinds = {"input": BadInputError, "conflict": ConflictError, "unknown": NotFoundError}
        raise kinds[taken.refused](taken.problem)
    return taken


def _take(taking: Taking) -> Taken:
    intake = Intake(Path(taking.file), taking.model, taking.reading, taking.use, taking.skip_bad, taking.name)
    actor = Actor(taking.actor, taking.key_id)
    try:
        with opened(taking.settings, existing=True) as database:
            outcome = import_file(database, taking.settings, intake, actor, datetime.now(UTC))
    except BadInputError as error:
        return Taken(refused="input", problem=str(error))
    except ConflictError as error:
        return Taken(refused="conflict", problem=str(error))
    except NotFoundError as error:
        return Taken(refused="unknown", problem=str(error))
    return Taken(
        entry=None if outcome.entry is None else outcome.entry.model_dump(),
        known=outcome.known,
        rows=outcome.rows,
        bad_rows=outcome.bad_rows,
        bad=[row._asdict() for row in outcome.bad],
    )


def _no_room(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: the file cannot be written ({error.strerror}); make room or make it writable"
    )


if __name__ == "__main__":
    answer_apart(Taking, _take)
