"""Engines asleep for a training: the loop asks for it, whoever runs the engines does it, the gateway says so.

Each says its part by holding a lock on a file of the data directory, so that nothing stays asleep after a crash: the kernel
lets go of what a process held, however it ended. They are processes of one machine; engines elsewhere are not put to sleep.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedback.errors import ConflictError, StorageError

_TRIES = 50


class Sign:
    """A sentence that one process holds up, and that all others can read while it does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self, text: str) -> Iterator[None]:
        """Hold it up for as long as the block takes, or this process lives.

        Raises `StorageError` when the file cannot be written, `ConflictError` when another process holds it up.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be written ({error.strerror}); check permissions"
            ) from error
        try:
            self._take(descriptor)
            self._write(descriptor, text)
            yield
        finally:
            os.close(descriptor)

    def told(self) -> str | None:
        """What is held up now; None when nobody does."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 4096, 0).decode("utf-8", "replace")
        finally:
            os.close(descriptor)
        return None

    def _write(self, descriptor: int, text: str) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be written ({error.strerror}); make room on the disk"
            ) from error

    def _take(self, descriptor: int) -> None:
        for _ in range(_TRIES):  # whoever reads it holds it for a moment
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                return
        raise ConflictError(f"{self.path}: another process of this data directory holds it; wait for its end")


def wanted_asleep(directory: Path) -> Sign:
    """The loop's: engines of this data directory are to sleep, with the reason."""
    return Sign(directory / "run" / "engines-to-sleep")


def found_asleep(directory: Path) -> Sign:
    """The supervisor's: they do, and hold no memory any more."""
    return Sign(directory / "run" / "engines-asleep")
