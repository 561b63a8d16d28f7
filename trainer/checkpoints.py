"""A training's checkpoints on the disk: written aside, renamed when they are whole, and read newest first.

    checkpoints/step-00000120/tensors.safetensors    whatever tensors the training needs to go on
                              state.json             the rest, for which training it is, and the hashes of both

What the tensors are is `trainer.training_state`'s business; this module knows files and bytes, not torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

TENSORS, STATE = "tensors.safetensors", "state.json"
FORM = 2
"""Of what stands in a checkpoint; raised with each change, so that a release goes on from none that it would misread."""
KEPT = 2
"""The newest, and one before it should the disk have damaged that."""
_SHARE = 50.0
"""A checkpoint that took a second is followed by none for at least this many seconds: at most 2 % of the time."""


class Schedule:
    """When the next checkpoint is due: by the clock, so that it costs a small share of the time whatever a step takes."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        """`seconds` between two; 0 means after every step."""
        self._seconds = seconds
        self._clock = clock
        self._next = clock() + seconds

    @property
    def due(self) -> bool:
        """Whether one is to be made now."""
        return self._clock() >= self._next

    def made(self, took: float) -> None:
        """One was made, or tried, and took that many seconds."""
        self._next = self._clock() + (max(self._seconds, _SHARE * took) if self._seconds else 0.0)


def write_checkpoint(out: Path, step: int, digest: str, tensors: bytes, state: dict[str, Any]) -> None:
    """Write the checkpoint of a step and remove older ones than `KEPT`. Raises `OSError`, with nothing half-made left.

    Those of later steps were made before the training went back to an earlier one, and go too.
    """
    folder = _folder(out) / f"step-{step:08d}"
    partial = folder.with_name(f"{folder.name}.partial")
    document = {
        "form": FORM,
        "training": digest,
        "tensors": _hash(tensors),
        "state_hash": _hash(_text(state)),
        "state": state,
    }
    try:
        for unfinished in _folder(out).glob("step-*.partial"):  # of an earlier attempt that was killed there
            shutil.rmtree(unfinished, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_through(partial / TENSORS, tensors)
        _write_through(partial / STATE, _text(document))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    later = [other for other in _found(out) if other.name > folder.name]
    for other in later:
        shutil.rmtree(other, ignore_errors=True)
    for older in _found(out)[KEPT:]:
        shutil.rmtree(older, ignore_errors=True)


def read_checkpoint(out: Path, digest: str) -> tuple[bytes, dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint that is whole and of this very training; None where there is none.

    One that is cut, damaged, of another training or of another release's form is passed over.
    """
    for folder in _found(out):
        try:
            document = json.loads((folder / STATE).read_bytes())
            tensors = (folder / TENSORS).read_bytes()
        except (OSError, ValueError):
            continue
        if not isinstance(document, dict) or document.get("form") != FORM:
            continue
        if document.get("training") != digest:
            continue
        state = document.get("state")
        if document.get("tensors") == _hash(tensors) and document.get("state_hash") == _hash(_text(state)):
            return tensors, document["state"]
    return None


def mark_of(found: tuple[bytes, dict[str, Any]] | None) -> list[int]:
    """A hash of what `read_checkpoint` gave, as numbers that a float holds exactly."""
    if found is None:
        return [0, 0]
    tensors, state = found
    mark = hashlib.sha256(_text(state))
    mark.update(tensors)
    return [int.from_bytes(mark.digest()[place : place + 6]) for place in (0, 6)]


def reached(out: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max((int(folder.name.removeprefix("step-")) for folder in _found(out)), default=0)


def discard_checkpoints(out: Path) -> None:
    """Remove them all: the training is done, or can come to nothing."""
    shutil.rmtree(_folder(out), ignore_errors=True)


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder. Raises `OSError`."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def _text(document: Any) -> bytes:
    return json.dumps(document).encode()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _folder(out: Path) -> Path:
    return out / "checkpoints"


def _found(out: Path) -> list[Path]:
    """Folders that got their final name, newest first."""
    named = _folder(out).glob("step-*")
    whole = [folder for folder in named if folder.name.removeprefix("step-").isdecimal()]
    return sorted(whole, key=lambda folder: folder.name, reverse=True)


def _write_through(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
