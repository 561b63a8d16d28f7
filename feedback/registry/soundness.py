"""`starloop db verify`, whole: the record, and the files that were made of it, are what their hashes say.

`storage.verify` proves journal and database. Here are the steps after them: imports, kept files, dataset files and manifests, examples,
evaluation and failure cases, erasures, and the adapters of all versions that may serve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from feedback.datasets.chat import content_hash
from feedback.datasets.files import FILES, check_files, folder_of, manifest_bytes, read_rows
from feedback.datasets.imported import intact
from feedback.errors import StarloopError
from feedback.files.stored import PREFIX, path_of
from feedback.privacy.examples import links
from feedback.privacy.tombstones import Mason, find_mason
from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.storage.database import Database
from feedback.storage.file_table import StoredFile
from feedback.storage.removal_tables import Tombstone
from feedback.storage.seals import broken_seals
from feedback.storage.tables import (
    Case,
    DataImport,
    DatasetVersion,
    Example,
    Failure,
    Inference,
    ModelVersion,
)
from feedback.storage.verify import NAMED, Verification, lenient_text, verify

_SERVING = ("registered", "promoted", "rejected")
_READ = 1000


def prove(database: Database, directory: Path, patience: float = 5.0) -> Verification:
    """All of it, as one count; what is wrong with files counts as `corrupt`. Raises as `storage.verify.verify` does."""
    found = verify(database, directory, patience)
    try:
        changed = [
            problem
            for look in (changed_datasets, changed_cases, changed_adapters, changed_imports, changed_files)
            for problem in look(database, directory)
        ]
    except StarloopError:
        if not found.corrupt:  # else the database is too damaged to be read on, which was counted
            raise
        changed = []
    problems = [*found.problems, *changed][:NAMED]
    return msgspec.structs.replace(found, corrupt=found.corrupt + len(changed), problems=problems)


def changed_datasets(database: Database, directory: Path) -> Iterator[str]:
    """One sentence for each thing about a dataset version that is not what was frozen, or erased since."""
    mason = find_mason(directory)
    with database.reading() as session:
        for version in session.exec(select(DatasetVersion).order_by(col(DatasetVersion.id))).all():
            yield from _changed_dataset(session, version, directory, mason)


def changed_cases(database: Database, directory: Path) -> Iterator[str]:
    """One sentence for each evaluation case, and each failure case with its correction, that is not what was written, or
    whose inference is neither on record nor erased. Failure cases are what the hold-out is made of."""
    with database.reading() as session, lenient_text(session):
        for kind, name in ((Case, "case"), (Failure, "failure case")):
            for identifier in broken_seals(session, kind):
                yield f"{name} {identifier}: it is not what was written"
            lost = (
                select(kind.id, kind.inference_id)
                .outerjoin(Inference, col(Inference.id) == col(kind.inference_id))
                .outerjoin(Tombstone, col(Tombstone.id) == col(kind.inference_id))
                .where(
                    col(kind.inference_id).is_not(None),
                    col(Inference.id).is_(None),
                    col(Tombstone.id).is_(None),
                )
            )
            for identifier, inference_id in session.exec(lost):
                yield f"{name} {identifier}: its inference {inference_id} is neither on record nor erased"


def changed_adapters(database: Database, directory: Path) -> Iterator[str]:
    """One sentence for each version whose adapter is not what was published under its name."""
    store = AdapterStore(directory / "adapters")
    with database.reading() as session:
        versions = session.exec(select(ModelVersion).where(col(ModelVersion.state).in_(_SERVING))).all()
    for version in versions:
        name = adapter_name(version.model, version.number)
        try:
            published = store.check(name)
            told = store.manifest(name)
        except StarloopError as error:
            yield str(error)
            continue
        if published != version.adapter_hash:
            yield f"{name}: its adapter is not the one that was registered"
        elif told != version.facts:
            yield f"{name}: its manifest is not the one that was published"


def changed_imports(database: Database, directory: Path) -> Iterator[str]:
    """One sentence for each import whose files are not those that were taken in."""
    with database.reading() as session:
        entries = session.exec(select(DataImport).order_by(col(DataImport.id))).all()
    for entry in entries:
        if not intact(directory, entry):
            yield f"import {entry.id}: its files are not those that were taken in"


def changed_files(database: Database, directory: Path) -> Iterator[str]:
    """One sentence for each kept file whose bytes are not those that were sent."""
    with database.reading() as session:
        rows = session.exec(select(StoredFile).order_by(col(StoredFile.id))).all()
    for row in rows:
        problem = _changed_bytes(path_of(directory, row.id), row)
        if problem is None:
            continue
        with (
            database.reading() as session
        ):  # it may have been deleted, or lost an erased user's lines, meanwhile
            now = session.get(StoredFile, row.id)
        if now is not None and now.hash == row.hash:
            yield f"{PREFIX}{row.id}: {problem}"


def _changed_bytes(path: Path, row: StoredFile) -> str | None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "its bytes are gone"
    except OSError as error:
        return f"its bytes cannot be read ({error.strerror or error})"
    return None if digest == row.hash else "its bytes are not those that were sent"


def _changed_dataset(
    session: Session, version: DatasetVersion, directory: Path, mason: Mason | None
) -> Iterator[str]:
    name = f"dataset {version.id}"
    if not _told_right(version, mason):
        yield f"{name}: its manifest does not lead to its content hash"
    try:
        manifest = (folder_of(directory, version.id) / "manifest.json").read_bytes()
    except OSError:
        manifest = b""
    if manifest != manifest_bytes(version.manifest):
        yield f"{name}: the manifest beside its files is not the one in the record"
    query = select(Example).where(Example.dataset_id == version.id).order_by(col(Example.position))
    examples = session.exec(query).all()
    if not check_files(directory, version.id, version.content_hash):
        yield f"{name}: its files are not those that were frozen"
    else:
        yield from _changed_rows(version.id, examples, directory)
    stones = {stone.id: stone for stone in session.exec(select(Tombstone).where(Tombstone.kind == "example"))}
    for example in examples:
        if example.erased is None:
            continue
        stone = stones.get(f"{version.id}:{example.position}")
        true = stone is not None and mason is not None and mason.is_true(stone)
        if stone is None or not true or stone.content_hash != example.content_hash:
            yield f"{name}: row {example.position} is gone without a true tombstone"


def _changed_rows(dataset_id: str, examples: Any, directory: Path) -> Iterator[str]:
    """Lines and lineage, side by side."""
    for split in FILES:
        wanted = (one for one in examples if one.split == split and one.erased is None)
        for example, line in zip_longest(wanted, read_rows(directory, dataset_id, split)):
            if example is None or line is None or not _is(line, example.content_hash):
                where = "beyond the lineage" if example is None else str(example.position)
                yield f"dataset {dataset_id}: row {where} of {split} is not its example"


def _is(line: dict[str, Any], wanted: str) -> bool:
    if line.get("id") != wanted:
        return False
    messages, answer = line.get("messages"), line.get("answer")
    if not isinstance(messages, list) or not isinstance(answer, str):
        return True  # a row of another form is known by its id, which the file's hash covers
    return content_hash(messages, answer, line.get("tools")) == wanted


def _told_right(version: DatasetVersion, mason: Mason | None) -> bool:
    """Whether the manifest's hash is the row's, and each erasure leads signed from one hash to the next."""
    manifest = version.manifest
    if manifest.get("content_hash") != version.content_hash:
        return False
    before = None
    for told, signature in links(manifest):
        if mason is None or mason.sign("dataset", *told) != signature or before not in (None, told[1]):
            return False
        before = told[2]
    return before in (None, version.content_hash)
