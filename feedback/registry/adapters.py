"""Adapters on disk: checksummed, published by one rename, never changed afterwards (invariant 6).

The engine loads `adapters/<model>@<number>/` by that name. Knows files, not the database and not what the weights
mean: whether they are sound is decided before they come here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from feedback.errors import (
    BadFieldError,
    ConflictError,
    StorageError,
    UnreadableAdapterError,
    UnsoundAdapterError,
)

Fingerprint = tuple[tuple[str, int, int, int, int, int], ...]
MANIFEST = "starloop.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9]+\.[0-9]+")


class Manifest(Struct, frozen=True):
    """`starloop.json` beside the weights: what was published under this name."""

    name: str
    hash: str
    files: dict[str, str]
    """SHA-256 of each file."""
    facts: dict[str, Any] = {}


def adapter_name(model: str, number: str) -> str:
    """The name under which the engine knows a version."""
    return f"{model}@{number}"


class AdapterStore:
    """The directory that the engine resolves adapter names in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where an adapter of that name stands. Raises `BadFieldError` for what is no adapter's name."""
        if not _NAME.fullmatch(name):
            raise BadFieldError("name", f"{name[:80]!r} is not the name of an adapter, such as assistant@1.2")
        return self.directory / name

    def hash_of(self, folder: Path) -> str:
        """SHA-256 over the names and contents of a folder's files. Raises `UnsoundAdapterError` for other things."""
        return _overall(_digests(folder))

    def publish(self, staged: Path, name: str, facts: Mapping[str, Any]) -> None:
        """Copy a finished folder to `name`, visible only once it is whole and on the disk.

        Publishing the same weights again changes nothing. Raises `ConflictError` when the name has other weights,
        `UnsoundAdapterError` when the folder is not plain files, `StorageError` when the disk does not take it.
        """
        target = self.path(name)
        files = _digests(staged)
        manifest = Manifest(name, _overall(files), files, dict(facts))
        if self._published(name, manifest.hash):
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in self.directory.glob(f".{name}.*"):  # of a process that was killed here
                shutil.rmtree(leftover, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=self.directory))
            try:
                _fill(partial, staged, manifest)
                partial.rename(target)
                _sync(self.directory)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and self._published(name, manifest.hash):
                return  # another process was quicker, with the same weights
            raise StorageError(
                f"{target}: the adapter could not be published ({error.strerror}); make room or make it writable"
            ) from error

    def check(self, name: str) -> str:
        """The hash under which an adapter was published, once its files have proved to be what they were then.

        Raises `UnsoundAdapterError` when a file is missing, changed or added. Compare the hash with the version's row
        to know that the whole folder was not replaced.
        """
        folder = self.path(name)
        if folder.is_symlink():
            raise UnsoundAdapterError(
                f"{folder}: is a link, and what it leads to may change; put the folder itself there"
            )
        manifest = _read_manifest(folder)
        try:
            present = {entry.name for entry in folder.iterdir()} - {MANIFEST}
        except OSError as error:
            raise UnreadableAdapterError(
                f"{folder}: the adapter cannot be read ({error.strerror})"
            ) from error
        missing = sorted(manifest.files.keys() - present)
        added = sorted(present - manifest.files.keys())
        if missing or added:
            told = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(added)} added"] * bool(
                added
            )
            raise UnsoundAdapterError(
                f"{folder}: {' and '.join(told)} since it was published; restore the folder"
            )
        found = _digests(folder)
        changed = sorted(file for file, digest in found.items() if manifest.files[file] != digest)
        if changed or manifest.hash != _overall(found) or manifest.name != name:
            what = ", ".join(changed) or MANIFEST
            raise UnsoundAdapterError(f"{folder}: {what} changed since it was published; restore the folder")
        return manifest.hash

    def manifest(self, name: str) -> dict[str, Any]:
        """The facts in an adapter's manifest.

        Raises `UnsoundAdapterError` also when the file is not, to the byte, what is written when publishing.
        """
        folder = self.path(name)
        found = _read_manifest(folder)
        if (folder / MANIFEST).read_bytes() != _encoded(found):
            raise UnsoundAdapterError(
                f"{folder}: {MANIFEST} changed since it was published; restore the folder"
            )
        return found.facts

    def fingerprint(self, name: str) -> Fingerprint:
        """What changes when anything in an adapter's folder does, without reading a file; empty when it is not there.

        The change time is part of it, which cannot be set back as the time of modification can.
        """
        folder = self.path(name)
        try:
            entries = sorted(folder.iterdir())
            return tuple(_marks(path) for path in (folder, *entries))
        except OSError:
            return ()

    def move_away(self, name: str) -> None:
        """Take an adapter out of the engine's sight, by one rename; once done it changes nothing. `StorageError`."""
        with _told(self.path(name), "moved away"):
            if self.path(name).exists():
                self.path(name).rename(self._away(name))
                _sync(self.directory)

    def move_back(self, name: str) -> None:
        """Undo `move_away`."""
        with _told(self.path(name), "moved back"):
            if self._away(name).exists():
                self._away(name).rename(self.path(name))

    def remove(self, name: str) -> None:
        """Delete what was moved away. Raises `StorageError`; what is left of it then is seen by no engine."""
        with _told(self._away(name), "deleted"):
            if self._away(name).exists():
                shutil.rmtree(self._away(name))

    def _away(self, name: str) -> Path:
        return self.directory / f".{name}.retired"

    def _published(self, name: str, wanted: str) -> bool:
        """Whether the name stands with these weights. Raises `ConflictError` where it stands with others."""
        if not self.path(name).exists():
            return False
        if self.check(name) != wanted:
            raise ConflictError(
                f"{name} is published with other weights; a name never means two, use a new version"
            )
        return True


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file but the manifest."""
    digests = {}
    try:
        for entry in sorted(folder.iterdir()):
            if entry.is_symlink() or not entry.is_file():
                raise UnsoundAdapterError(f"{entry}: an adapter consists of plain files only")
            if entry.name != MANIFEST:
                with entry.open("rb") as file:
                    digests[entry.name] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableAdapterError(f"{folder}: the adapter cannot be read ({error.strerror})") from error
    if not digests:
        raise UnsoundAdapterError(f"{folder}: holds no adapter")
    return digests


def _overall(files: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _fill(partial: Path, staged: Path, manifest: Manifest) -> None:
    """All files and the manifest, on the disk. What is copied is hashed again: the source may change meanwhile."""
    partial.chmod(0o755)  # the engine may run as another user
    for name in manifest.files:
        shutil.copyfile(staged / name, partial / name)
        _sync(partial / name)
    if _digests(partial) != manifest.files:
        raise UnsoundAdapterError(f"{staged}: its files changed while they were published; publish it again")
    path = partial / MANIFEST
    path.write_bytes(_encoded(manifest))
    _sync(path)
    _sync(partial)


def _encoded(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def _read_manifest(folder: Path) -> Manifest:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise UnsoundAdapterError(
            f"{folder}: there is no {MANIFEST}, so nothing was published here"
        ) from None
    except OSError as error:
        raise UnreadableAdapterError(f"{folder}: {MANIFEST} cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnsoundAdapterError(
            f"{folder}: {MANIFEST} cannot be read ({error}); restore the folder"
        ) from None


def _marks(path: Path) -> tuple[str, int, int, int, int, int]:
    status = path.lstat()
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return path.name, status.st_mode, status.st_ino, size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: the adapter could not be {what} ({error.strerror}); make the folder writable"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
