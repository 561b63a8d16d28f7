"""The file, or the files of a split, as given: copied once, byte for byte, so that what is read is what is kept."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from feedback.errors import BadInputError, ConflictError
from feedback.imports.folder import files_of, joint_digest

_CHUNK = 1 << 20


class Original(NamedTuple):
    """What was copied."""

    hash: str
    """SHA-256 (hex) of its bytes; of a folder, as `folder.joint_digest` has it."""
    size: int


def copy_original(source: Path, target: Path, name: str, split: str = "") -> Original:
    """Copy a file, or the files of a folder's split into a folder, and flush them to disk.

    Raises `BadFieldError` for a split that is not there, and else what `_copy_file` raises.
    """
    files = files_of(source, split, name)
    if files == [source]:
        return _copy_file(source, target, name)
    copies: dict[str, Original] = {}
    target.mkdir()
    for place, file in enumerate(files):
        # Numbered, so that they keep their order and name no split; the ending says what is in them.
        copy = f"{place:05d}{''.join(file.suffixes)}"
        copies[copy] = _copy_file(file, target / copy, f"{name}/{file.relative_to(source)}")
    digest = joint_digest([(copy, one.hash) for copy, one in copies.items()])
    return Original(digest, sum(one.size for one in copies.values()))


def _copy_file(source: Path, target: Path, name: str) -> Original:
    """Copy one file.

    Raises `BadInputError` for what is no file with something in it, `ConflictError` when it changed meanwhile.
    """
    digest, size = hashlib.sha256(), 0
    try:
        # Opening a pipe would wait for its writer.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as given, target.open("wb") as kept:
            before = os.fstat(given.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise BadInputError(f"{name}: is no file; name a file with rows")
            while chunk := given.read(_CHUNK):
                kept.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            kept.flush()
            os.fsync(kept.fileno())
            after = os.fstat(given.fileno())
            replaced = source.stat().st_ino != before.st_ino
    except OSError as error:
        if error.filename != str(source) and not isinstance(error, IsADirectoryError):
            raise
        raise BadInputError(f"{name}: cannot be read ({error.strerror})") from None
    if (
        replaced
        or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
        or size != after.st_size
    ):
        raise ConflictError(
            f"{name}: changed while it was read; wait until it is written, and import it again"
        )
    if not size:
        raise BadInputError(f"{name}: is empty; there is no row in it")
    return Original(digest.hexdigest(), size)
