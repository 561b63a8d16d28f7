"""The node's end of a training on Ray: `python -P -m trainer.job FOLDER JOB`, which the cluster starts.

It runs the same child as Starloop's own machine would, in the folder that both share, and writes down what it tells. The
order in that folder says what to do; once it is gone, or names another job, this one ends. Starloop's end is
`trainer.on_ray`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from feedback.errors import ConflictError, NotFoundError, StarloopError, StorageError
from trainer.checkpoints import digests_of
from trainer.on_ray import LEFT, Order
from trainer.process import HEARTBEAT, run_child
from trainer.training import JOB_LOCK, ORDER, PATIENCE, alone_in


class UnwantedError(StarloopError):
    """The order names this job no more."""


def run(folder: Path, job: str) -> int:
    """Do what the folder's order says. The end, good or bad, is the last event; a bad one is printed too, for where the
    folder is the trouble."""
    events: Path | None = None
    try:
        order = _order(folder, job)
        events = folder / order.events
        with alone_in(
            folder, JOB_LOCK, PATIENCE
        ):  # one before it that is not wanted leaves it within moments
            result = _train(folder, order, events)
        _tell(events, {"event": "done", "result": result, "files": digests_of(folder / "adapter")})
    except UnwantedError as error:
        print(error)
        if events is not None:
            with suppress(OSError):
                _tell(events, {"event": LEFT})  # it writes nothing more: others may train here
        return 1
    except StarloopError as error:
        _fail(events, type(error).__name__, str(error))
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        told = f"a file could not be read or written{where}: {error.strerror or error}; check the shared directory's room and rights"
        _fail(events, StorageError.__name__, told)
        return 1
    return 0


def _order(folder: Path, job: str) -> Order:
    """The order, which must be for this job and this release."""
    until = time.monotonic() + PATIENCE
    while not (folder / ORDER).is_file():
        if time.monotonic() > until:
            raise NotFoundError(
                f"{folder / ORDER} is not there on the node {socket.gethostname()}: a training on Ray needs Starloop's data "
                "directory under the same path on every node; mount it there, or set storage.directory to one that "
                "all share"
            )
        time.sleep(HEARTBEAT)
    content = (folder / ORDER).read_bytes()
    release = msgspec.json.decode(content).get("release")
    if release != version("starloop"):
        raise ConflictError(
            f"Starloop is {release}, and {version('starloop')} is installed on the node {socket.gethostname()}; install the "
            "same release there"
        )
    order = msgspec.json.decode(content, type=Order)
    if order.job != job:
        raise UnwantedError(f"{folder / ORDER} names another job, {order.job}")
    return order


def _train(folder: Path, order: Order, events: Path) -> dict[str, Any]:
    looked = time.monotonic()

    def on_event(event: dict[str, Any] | None) -> None:
        nonlocal looked
        if event is not None and event["event"] not in ("done", "failed"):
            _tell(events, event)
        if time.monotonic() - looked >= HEARTBEAT:
            looked = time.monotonic()
            _require_wanted(folder, order.job)

    return run_child(
        "trainer.finetune",
        order.spec,
        folder,
        threads=order.threads,
        timeout_seconds=order.timeout_seconds,
        on_event=on_event,
        devices=_devices(order.gpus),
        memory=0 if order.gpus else order.memory,
    )


def _devices(gpus: int) -> list[str]:
    """One for each process; which GPUs are its own Ray tells a job by the environment."""
    if gpus == 0:
        return ["cpu"]
    if gpus == 1:
        return [""]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(shown) < gpus:
        raise ConflictError(
            f"the job asked for {gpus} GPUs and Ray gave it {os.environ.get('CUDA_VISIBLE_DEVICES')!r}"
        )
    return shown[:gpus]


def _require_wanted(folder: Path, job: str) -> None:
    try:
        named = msgspec.json.decode((folder / ORDER).read_bytes()).get("job")
    except FileNotFoundError:
        named = None
    except OSError:  # the shared directory is away for a moment
        return
    if named != job:
        raise UnwantedError(
            f"{folder / ORDER} does not name this job any more: nobody waits for its training"
        )


def _tell(events: Path, event: dict[str, Any]) -> None:
    """Opened anew for each line, as a shared directory passes on what is closed."""
    with events.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(event) + "\n")


def _fail(events: Path | None, kind: str, message: str) -> None:
    event = {"event": "failed", "kind": kind, "message": message}
    print(json.dumps(event), flush=True)
    if events is not None:
        with suppress(OSError):
            _tell(events, event)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
