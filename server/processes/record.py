"""What runs, written to disk, so that the next start can end what a killed one left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from server.processes.family import Identity, alive, end, family


class ProcessRecord(Struct, frozen=True):
    """One supervised process; the file is `run/<name>.<pid>.json`."""

    name: str
    leader: Identity
    pgid: int
    owner: Identity
    """Who supervises it: while that one lives, nobody else ends it."""
    port: int | None = None
    members: list[Identity] = []
    """Whom it had started when last looked at. Its workers live on when it is killed."""


def write_record(folder: Path, record: ProcessRecord) -> None:
    """Put the record on disk, in one step."""
    path = _path(folder, record)
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(record))
    draft.replace(path)


def remove_record(folder: Path, record: ProcessRecord) -> None:
    """Forget a process that has ended."""
    _path(folder, record).unlink(missing_ok=True)


def read_records(folder: Path) -> Iterator[tuple[Path, ProcessRecord]]:
    """Every readable record; a damaged one names no process, so it is deleted."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, msgspec.json.decode(path.read_bytes(), type=ProcessRecord)
        except FileNotFoundError:
            continue
        except msgspec.DecodeError:
            path.unlink(missing_ok=True)


def end_left_over(folder: Path, grace: float = 10.0) -> list[str]:
    """End every recorded process whose supervisor is gone, with all that it started; returns their names.

    `grace` is in seconds, from SIGTERM to SIGKILL.
    """
    ended = []
    for path, record in list(read_records(folder)):
        if alive(record.owner):
            continue
        members = family(record.leader, record.members)
        left = end(members, grace)
        if members:
            ended.append(record.name)
        if not left:
            path.unlink(missing_ok=True)
    return ended


def _path(folder: Path, record: ProcessRecord) -> Path:
    return folder / f"{record.name}.{record.leader.pid}.json"
