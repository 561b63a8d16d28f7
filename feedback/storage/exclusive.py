"""Turns among those that must see the data directory as a whole: nothing is erased while it is being backed up."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedback.errors import ConflictError, StorageError


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """One removal, backup or restoration at a time on a data directory.

    The kernel frees the lock however this process ends. Raises `ConflictError` while another has it, `StorageError`.
    """
    path = directory / "record.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); make it writable") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                "another removal or backup is under way on this data directory; run this again when it has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)
