"""The data directory, claimed by one supervisor at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from feedback.errors import ConflictError, StorageError

_FOLDERS = ("logs", "run", "adapters", "bases")


class Claim:
    """Holds a data directory until released or until this process ends, however it ends."""

    def __init__(self, directory: Path, name: str) -> None:
        """Raises `StorageError` when the directory cannot be written to, `ConflictError` when another holds it."""
        self.directory = prepare(directory)
        path = directory / "run" / f"{name}.lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}); check permissions") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise ConflictError(
                f"{directory}: `starloop {name}` already runs on this data directory (process {holder}); "
                "stop that one first, or choose another --data-dir"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._descriptor)


def prepare(directory: Path) -> Path:
    """The data directory with the folders that processes need. Raises `StorageError` when it cannot be written to."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in _FOLDERS:
            (directory / name).mkdir(exist_ok=True)
        probe = directory / "run" / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"{directory}: the data directory cannot be written to ({error.strerror}); "
            "make it writable, or set storage.directory or --data-dir to another"
        ) from error
    return directory
