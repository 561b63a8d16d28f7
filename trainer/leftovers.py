"""What trainings leave in `runs/`: cleared away when a cycle or fine-tuning ends, and swept where nobody was there to do it.

A folder is called as the cycle or fine-tuning that trains in it, and `import-…` where an adapter is taken in. Those of other
names are left alone: `train-…` is of `starloop train`, which goes on with it when it is typed again. The log and what was asked
for stay with the record.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from sqlmodel import col, select

from feedback.errors import ConflictError, StarloopError
from feedback.settings import Settings
from feedback.storage.tables import Cycle, Tuning
from feedback.tuning.requests import ENDED
from trainer.nights import NIGHTS, vain
from trainer.on_ray import abandon, left_orders, settle
from trainer.training import JOB_LOCK, ORDER, alone_in
from trainer.workshop import Workshop

_log = logging.getLogger(__name__)
_OURS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|import-\w+")
_GONE = ("checkpoints", "adapter", "adapter.partial", "trained.json", NIGHTS)
_UNKNOWN_SECONDS = 86_400.0
"""A folder of which the record knows nothing is removed when nobody has written into it for that long."""
_CYCLE_ENDED = ("done", "cancelled", "failed")


def run_folder(workshop: Workshop, identifier: str) -> Path:
    """Where a cycle or fine-tuning trains."""
    return workshop.settings.directory / "runs" / identifier


def leave(folder: Path, ended: bool) -> None:
    """Nobody waits for the training in the folder any more: its job on Ray ends, and where it has `ended` for good nothing of
    it is gone on with. What cannot be done now is done by `sweep`."""
    try:
        abandon(folder)
        if ended:
            _clear(folder)
    except StarloopError as error:
        _log.warning("%s; it is tried again later", error)


def sweep(workshop: Workshop) -> int:
    """Clear folders whose cycle or fine-tuning has ended or is not on record; how many there were.

    One in which somebody is at work is left alone. Jobs on Ray that were left and may still be at work are asked about again.
    """
    found = [
        folder for folder in _folders(workshop.settings.directory / "runs") if _OURS.fullmatch(folder.name)
    ]
    with workshop.database.reading() as session:  # after the look: a row stands before its folder does
        cycles = {
            row: state in _CYCLE_ENDED for row, state in session.exec(select(Cycle.id, col(Cycle.state)))
        }
        tunings = {row: state in ENDED for row, state in session.exec(select(Tuning.id, col(Tuning.state)))}
    states = cycles | tunings
    swept = 0
    for folder in found:
        ended = states.get(folder.name)
        try:
            if left_orders(folder):
                settle(folder)
            if ended is None:
                swept += _remove(folder)
            elif ended and any((folder / name).exists() for name in (ORDER, *_GONE)):
                abandon(folder)
                swept += _clear(folder)
        except (StarloopError, OSError) as error:
            _log.info("%s stays for now: %s", folder, error)
    if swept:
        _log.info("cleared %d folders in %s", swept, workshop.settings.directory / "runs")
    return swept


def troubles(settings: Settings) -> Iterator[tuple[str, str]]:
    """What holds up trainings in `runs/`: what about, and in words."""
    for folder in _folders(settings.directory / "runs"):
        for order, file in left_orders(folder):
            yield (
                "training on Ray",
                f"job {order.job} at {order.address} was told to end and is not known to have, so nothing trains in {folder} before the "
                f"cluster, or the job itself, says so; if you know that it has ended, remove {file}",
            )
        if (found := vain(folder)) is not None:
            yield "training window", f"{folder.name}: {found.told(settings.training)}"


def _folders(runs: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in runs.iterdir() if path.is_dir())
    except FileNotFoundError:
        return


def _clear(folder: Path) -> bool:
    """Remove what a training would go on with; whether nobody is at work there and it was done."""
    if not folder.is_dir() or left_orders(folder):
        return False
    with ExitStack() as held:
        try:
            for lock in ("lock", JOB_LOCK):
                held.enter_context(alone_in(folder, lock))
        except ConflictError:
            return False
        for name in _GONE:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return True


def _remove(folder: Path) -> bool:
    """Remove a folder that nothing on record belongs to, as an import that was killed leaves one, once it is old."""
    newest = max((file.stat().st_mtime for file in [folder, *folder.iterdir()]), default=0.0)
    if time.time() - newest < _UNKNOWN_SECONDS:
        return False
    abandon(folder)
    if not _clear(folder):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True
