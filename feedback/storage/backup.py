"""One archive of everything that cannot be made again: the database, the journals, imports, datasets, adapters and the
secrets.

Made beside a running gateway. Journals are copied before the database: a record that has left a journal by then is in the
database already, so nothing that was acknowledged before the backup began is missing in it. Dataset and adapter files come
last, as each of them stands before the row that names it.

    manifest.json (at the end)   when, of which database, and the SHA-256 of every file
    database.sqlite | database.dump, journal/…, imports/…, files/…, datasets/…, adapters/…, *.key
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from feedback.errors import BadInputError, ConflictError, StorageError, UnavailableError
from feedback.settings import Settings
from feedback.storage.aside import KINDS
from feedback.storage.database import Database
from feedback.storage.exclusive import alone
from feedback.storage.journal_file import FOLDER, journals, segments
from feedback.storage.marks import SUFFIX, read_marks, write_marks

MANIFEST = "manifest.json"
_TREES = ("imports", "files", "datasets", "adapters")
_SQLITE, _DUMP = "database.sqlite", "database.dump"
_PIECE = 1 << 20
_FORM = 1


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is in an archive."""

    created: str
    database: Literal["sqlite", "postgresql"]
    files: dict[str, str]
    """SHA-256 of each, by its name in the archive."""
    form: int = _FORM


def back_up(database: Database, settings: Settings, target: Path, now: datetime) -> Manifest:
    """Write everything into one archive at `target`, which must not be there yet.

    Raises `ConflictError` where it is, or where data is being erased just now; `StorageError` when it cannot be written or
    `pg_dump` is not there; `UnavailableError` when files went while they were copied.
    """
    if target.exists():
        raise ConflictError(f"{target}: is there already; name a new file, or delete it first")
    directory = settings.directory
    partial = target.with_name(f".{target.name}.partial")
    try:
        with (
            alone(directory),
            tempfile.TemporaryDirectory(prefix=".backup-", dir=target.absolute().parent) as work,
        ):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
                    files = {
                        name: _add(archive, name, path)
                        for name, path in _contents(database, directory, Path(work))
                    }
                    manifest = Manifest(now.isoformat(), _kind(database), files)
                    _add_bytes(
                        archive, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1)
                    )
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, target)  # unlike a rename, it never replaces what came there meanwhile
    except FileExistsError:
        raise ConflictError(f"{target}: is there already; name a new file, or delete it first") from None
    except FileNotFoundError as error:
        raise UnavailableError(
            f"{error.filename}: went while it was copied (a version was retired?); run the backup again"
        ) from error
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        raise StorageError(
            f"{target}: the backup cannot be written ({error}); check space and permissions"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def restore(settings: Settings, source: Path) -> Manifest:
    """Bring an archive into an empty data directory (and an empty PostgreSQL database, where that is configured).

    Everything is checked against the manifest before anything is put in place, and the database comes last. Raises
    `ConflictError` where there is a record already, `BadInputError` for what is no whole backup, `StorageError`.
    """
    directory = settings.directory
    _refuse_record(settings)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=directory) as work:
            manifest = _unpacked(source, Path(work))
            _place(settings, manifest, Path(work))
    except OSError as error:
        raise StorageError(
            f"{directory}: cannot be restored to ({error}); check space and permissions"
        ) from error
    return manifest


# -- making


def _contents(database: Database, directory: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """Names and files, each made when its turn comes."""
    for journal in journals(directory):
        for copy in _copied(journal, work):
            yield f"{FOLDER}/{copy.name}", copy
    for kind in KINDS:
        for kept in sorted((directory / FOLDER).glob(f"*.{kind}")):
            yield f"{FOLDER}/{kept.name}", kept
    yield _snapshot(database, work)
    for tree in _TREES:
        for path in sorted((directory / tree).rglob("*")):
            parts = path.relative_to(directory).parts
            if path.is_file() and not any(part.startswith(".") for part in parts):
                yield "/".join(parts), path
    for key in sorted(directory.glob("*.key")):
        yield key.name, key


def _copied(journal: Path, work: Path) -> Iterator[Path]:
    """A journal's files as they stand, its owner perhaps writing on.

    What was acknowledged before the copy is in it, and what was drained before the copy's end is in the database, which is
    copied after: the marks say so, the first from before, the second from after.
    """
    standing = read_marks(journal).standing
    for segment in segments(journal):
        copy = work / segment.path.name
        try:
            shutil.copyfile(segment.path, copy)
        except FileNotFoundError:
            continue  # drained meanwhile
        yield copy
    write_marks(work / journal.name, standing, read_marks(journal).drained)
    yield (work / journal.name).with_suffix(SUFFIX)


def _snapshot(database: Database, work: Path) -> tuple[str, Path]:
    url = database.engine.url
    if database.dialect == "sqlite":
        _vacuum_into(Path(str(url.database)), work / _SQLITE)
        return _SQLITE, work / _SQLITE
    _postgresql(database, "pg_dump", "--format=custom", "--no-owner", f"--file={work / _DUMP}")
    return _DUMP, work / _DUMP


def _vacuum_into(source: Path, target: Path) -> None:
    """One moment of an SQLite file, without its free pages; whoever writes it is not held up."""
    uri = f"{source.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=20.0, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def _add(archive: tarfile.TarFile, name: str, path: Path) -> str:
    """Add a file; its SHA-256, of the very bytes that went in."""
    with path.open("rb") as file:
        entry = archive.gettarinfo(arcname=name, fileobj=file)
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        hashing = _Hashing(file)
        archive.addfile(entry, hashing)
    return hashing.digest.hexdigest()


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.digest.update(piece)
        return piece


# -- bringing back


def _refuse_record(settings: Settings) -> None:
    directory = settings.directory
    url = make_url(settings.database_url)
    file = Path(url.database or "") if url.get_backend_name() == "sqlite" else directory / "starloop.sqlite"
    names = [FOLDER, *_TREES]
    there = [name for name in names if any((directory / name).glob("*"))] + [str(file)] * file.exists()
    if there:
        raise ConflictError(
            f"{directory}: holds {', '.join(there)} already; nothing is overwritten. Restore to another storage.directory, or "
            "move what is there away"
        )
    if url.get_backend_name() != "sqlite":
        database = Database(settings.database_url)
        try:
            with database.reading() as session:
                tables = inspect(session.connection()).get_table_names()
        finally:
            database.close()
        if tables:
            raise ConflictError(
                f"storage.database: holds tables already ({', '.join(sorted(tables)[:3])}, …); nothing is overwritten. "
                "Name an empty database"
            )


def _unpacked(source: Path, work: Path) -> Manifest:
    """Every file of the archive under `work`, each proved. Raises `BadInputError`."""
    found: dict[str, str] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(source, mode="r|gz") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None or not _is_ours(entry.name):
                    raise BadInputError(f"{source}: holds {entry.name[:80]!r}, which no backup does")
                if entry.name == MANIFEST:
                    manifest = msgspec.json.decode(file.read(), type=Manifest)
                else:
                    found[entry.name] = _unpack(file, work / entry.name)
    except (tarfile.TarError, EOFError, msgspec.DecodeError, OSError) as error:
        raise BadInputError(f"{source}: is not a whole backup ({error})") from error
    if manifest is None:
        raise BadInputError(f"{source}: is not a whole backup: its end is missing")
    if found != manifest.files:
        wrong = sorted(
            name for name in {*found, *manifest.files} if found.get(name) != manifest.files.get(name)
        )
        raise BadInputError(f"{source}: {', '.join(wrong[:5])} is not what was backed up; use another backup")
    if manifest.form != _FORM:
        raise BadInputError(
            f"{source}: is of form {manifest.form}, and this Starloop reads {_FORM}; use a newer one"
        )
    if (_SQLITE if manifest.database == "sqlite" else _DUMP) not in found:
        raise BadInputError(f"{source}: is not a whole backup: the database is missing")
    return manifest


def _is_ours(name: str) -> bool:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name:
        return False
    if len(path.parts) == 1:
        return name in (MANIFEST, _SQLITE, _DUMP) or path.suffix == ".key"
    return path.parts[0] in (FOLDER, *_TREES)


def _unpack(file: IO[bytes], target: Path) -> str:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        while piece := file.read(_PIECE):
            digest.update(piece)
            out.write(piece)
    return digest.hexdigest()


def _place(settings: Settings, manifest: Manifest, work: Path) -> None:
    directory = settings.directory
    url = make_url(settings.database_url)
    kind = url.get_backend_name()
    if manifest.database != kind:
        raise BadInputError(
            f"the backup is of {manifest.database}, and storage.database names {kind}; configure the same kind"
        )
    for folder in (work / "adapters").rglob("*"):
        folder.chmod(0o755 if folder.is_dir() else 0o644)  # the engine may run as another user
    if kind == "postgresql":
        database = Database(settings.database_url)
        try:
            arguments = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
            _postgresql(database, "pg_restore", *arguments, str(work / _DUMP))
        finally:
            database.close()
    for path in sorted(work.iterdir()):
        if path.name in (_SQLITE, _DUMP):
            continue
        if path.is_dir():
            shutil.rmtree(directory / path.name, ignore_errors=True)  # empty, or it would have been refused
        path.replace(directory / path.name)
    if kind == "sqlite":
        (work / _SQLITE).replace(Path(str(url.database)))


def _kind(database: Database) -> Literal["sqlite", "postgresql"]:
    return "sqlite" if database.dialect == "sqlite" else "postgresql"


def _postgresql(database: Database, program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs on the database. Raises `StorageError` saying what to do."""
    found = shutil.which(program)
    if found is None:
        raise StorageError(
            f"{program} is not on the PATH; install PostgreSQL's client programs, of the server's version or a newer one"
        )
    url = database.engine.url
    # The password goes by the environment: a command line can be read by anybody on the machine.
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    done = subprocess.run(
        [found, f"--dbname={address}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StorageError(f"{program} failed: {done.stderr.strip()[-500:]}")
