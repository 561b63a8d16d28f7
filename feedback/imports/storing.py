"""Taking a file in: copied, read, written in canonical form beside its place, moved there by one rename.

    imports/<id>/original        the bytes that were given; of a dataset's folder, a folder of its files
                 rows.jsonl      canonical rows (`rows.Row`)
                 manifest.json   what both are

What counts is the row in the table `data_import`, which comes last: whatever a crash leaves behind is read by nobody.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Literal, NamedTuple, get_args

import msgspec
from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.errors import NotFoundError, StorageError
from feedback.ids import new_id
from feedback.imports.original import Original, copy_original
from feedback.imports.reading import Reader, Reading
from feedback.imports.rows import BadRow
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.paging import Page, newest_first
from feedback.storage.tables import DataImport

FOLDER = "imports"
TOLD = 1000
"""Most bad rows that are named; all are counted."""
Use = Literal["learn", "replay"]
USES: tuple[Use, ...] = get_args(Use)
Kept = Literal["learn", "replay", "tuning"]
"""`tuning`: for fine-tunings that name the file, and for the cycles after a version that came of one was promoted."""


class Intake(NamedTuple):
    """What is to be taken in, and how."""

    file: Path
    model: str
    reading: Reading = Reading()
    use: Kept = "learn"
    """`learn`: rows are new examples. `replay`: the model is to know them already, and not to forget them."""
    skip_bad: bool = False
    name: str = ""
    """What the file was called by who sent it; its own name otherwise."""


@dataclass
class Outcome:
    """What came of it. Without an `entry` nothing was taken in."""

    entry: DataImport | None = None
    known: bool = False
    """The same rows were taken in before, as `entry`."""
    rows: int = 0
    bad_rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    """The first `TOLD` of them."""


def import_file(
    database: Database, settings: Settings, intake: Intake, actor: Actor, now: datetime
) -> Outcome:
    """Take a file's rows in for a model: all of them, or with `skip_bad` the good ones, or none.

    Raises `NotFoundError` for an unknown model, `BadInputError` for a file that cannot be read, `ConflictError` when it
    changes meanwhile, `StorageError` when there is no room. Nothing is left behind then.
    """
    if settings.model_named(intake.model) is None:
        raise NotFoundError(f"there is no [[model]] named {intake.model[:60]!r} in the configuration")
    folder = settings.directory / FOLDER
    identifier = new_id(now)
    partial = folder / f".{identifier}.partial"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(folder)
        partial.mkdir()
        with (partial / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _take_in(database, folder, identifier, intake, actor, now)
    except OSError as error:
        raise StorageError(
            f"{folder}: the rows cannot be written ({error.strerror}); make room or make it writable"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def list_imports(session: Session, model: str | None = None) -> list[DataImport]:
    """All that was taken in, newest first."""
    query = select(DataImport).order_by(col(DataImport.id).desc())
    return list(session.exec(query.where(DataImport.model == model) if model else query))


def page_of_imports(session: Session, model: str | None, limit: int, cursor: str | None) -> Page[DataImport]:
    """What was taken in, newest first, a page at a time."""
    query = select(DataImport)
    if model is not None:
        query = query.where(DataImport.model == model)
    return newest_first(session, query, DataImport, limit, cursor)


def _take_in(
    database: Database, folder: Path, identifier: str, intake: Intake, actor: Actor, now: datetime
) -> Outcome:
    name = shown_name(Path(intake.name) if intake.name else intake.file)
    partial = folder / f".{identifier}.partial"
    reading = intake.reading
    original = copy_original(intake.file, partial / "original", name, reading.split)
    reader = Reader(partial / "original", name, Reading(reading.format, reading.columns))
    outcome = Outcome()
    with (partial / "rows.jsonl").open("wb", buffering=1 << 20) as rows:
        content_hash, examples = _write_rows(reader, rows, outcome)
    if (outcome.bad_rows and not intake.skip_bad) or not outcome.rows:
        return outcome
    entry = DataImport(
        id=identifier,
        model=intake.model,
        name=name,
        format=reader.format,
        columns=dict(intake.reading.columns),
        use=intake.use,
        original_hash=original.hash,
        original_bytes=original.size,
        content_hash=content_hash,
        rows=outcome.rows,
        examples=examples,
        bad=outcome.bad_rows,
        created=now.timestamp(),
        created_by=actor.name,
    )
    _write_manifest(partial / "manifest.json", entry, original, outcome)
    with database.session() as session:
        same = select(DataImport).where(
            DataImport.model == intake.model, DataImport.content_hash == content_hash
        )
        if (known := session.exec(same).first()) is not None:
            outcome.entry, outcome.known = known, True
            if known.use == "tuning" != intake.use:  # until now only fine-tunings had them
                known.use, outcome.known = intake.use, False
                session.add(known)
                note(
                    session, actor, "data.import", intake.model, now, **{"import": known.id, "use": known.use}
                )
                session.commit()
            return outcome
        partial.rename(folder / identifier)
        try:
            _flush_folder(folder)
            session.add(entry)
            facts = {"import": identifier, "rows": entry.rows, "bad": entry.bad, "hash": content_hash}
            note(session, actor, "data.import", intake.model, now, **facts)
            session.commit()
        except BaseException:
            shutil.rmtree(folder / identifier, ignore_errors=True)
            raise
    with suppress(OSError):
        (folder / identifier / ".lock").unlink()
    outcome.entry = entry
    return outcome


def _write_rows(reader: Reader, rows: IO[bytes], outcome: Outcome) -> tuple[str, int]:
    """Write the good rows and count all; SHA-256 (hex) of what was written, and how many answers can be learned."""
    digest, encoder, examples = hashlib.sha256(), msgspec.json.Encoder(), 0
    for row in reader:
        if isinstance(row, BadRow):
            outcome.bad_rows += 1
            if len(outcome.bad) < TOLD:
                outcome.bad.append(row)
            continue
        line = encoder.encode(row) + b"\n"
        rows.write(line)
        digest.update(line)
        outcome.rows += 1
        examples += row.answers
    rows.flush()
    os.fsync(rows.fileno())
    return digest.hexdigest(), examples


def _write_manifest(file: Path, entry: DataImport, original: Original, outcome: Outcome) -> None:
    document = entry.model_dump() | {"bad_rows": [bad._asdict() for bad in outcome.bad]}
    with file.open("w", encoding="utf-8", errors="replace") as opened:
        json.dump(document, opened, indent=2, ensure_ascii=False)
        opened.flush()
        os.fsync(opened.fileno())


def shown_name(file: Path) -> str:
    """A file's own name, without its folders, as text that can be stored and shown; `file` where it has none."""
    name = file.name.encode("utf-8", "replace").decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in name)[:255] or "file"


def sweep(folder: Path) -> None:
    """Remove what imports and uploads that were killed left behind; one that is under way holds its lock."""
    for partial in folder.glob(".*.partial"):
        try:
            with (partial / ".lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:
            continue  # under way, or begun this moment


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
