"""A training as a job on a Ray cluster, handed in, watched, ended, found again.

Starloop and the nodes share the data directory under one path. In the training's folder stand

    job.json            what is to be done, and which job may do it: a job that is not named there ends by itself
    events-<job>.jsonl  what the training tells, an object a line, as a child process does on its standard output
    left-<job>.json     the order of a job that was told to end and is not known to have: nobody trains there before it has

so that a process that takes over finds the job that its predecessor handed in. The node's end is `trainer.job`.
"""

from __future__ import annotations

import json
import logging
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from feedback.errors import StarloopError, StorageError, UnavailableError
from trainer.checkpoints import digests_of
from trainer.cluster import OVER, Cluster, Job
from trainer.machine import processes
from trainer.process import HEARTBEAT, ChildDiedError, failure_of
from trainer.training import ORDER

_log = logging.getLogger(__name__)
AWAY = 60.0
"""Seconds without an answer of the cluster, and without a word of the training, after which it counts as away."""
SETTLE = 30.0
"""Longest that what a node wrote is waited for once its job has ended: shared directories show it late."""
LEFT = "left"
"""The last event of a job that ended because it was not wanted any more."""
_LEFT_ORDER = "left-{}.json"
_LAST = ("done", "failed", LEFT)
_END = 15.0
"""Longest wait for a job to end that was told to."""


class ClusterAwayError(UnavailableError):
    """The cluster does not answer; its job may be at work, and is taken up when it does."""

    goes_on = True


class Order(Struct, frozen=True, kw_only=True):
    """What one job is to do."""

    job: str
    address: str
    """Of the cluster that it was handed to."""
    release: str
    """Of Starloop; a node's own must be the same."""
    spec: dict[str, Any]
    """Of the training."""
    threads: int
    gpus: int
    memory: int
    """Bytes of main memory that it may take; 0 is no limit."""
    timeout_seconds: float

    @property
    def events(self) -> str:
        """Name of the file that the job writes."""
        return f"events-{self.job}.jsonl"


def gpus_of(devices: str) -> int:
    """How many GPUs of a node `[training] devices` asks for: one where it says nothing, none for `cpu`."""
    return 0 if devices == "cpu" else processes(devices)


def read_order(folder: Path) -> Order | None:
    """The order that stands in a training's folder; None where there is none, or none that can be read."""
    return _read(folder / ORDER)


def _read(file: Path) -> Order | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Order)
    except (OSError, msgspec.MsgspecError):
        return None


def run_job(
    address: str,
    spec: Mapping[str, Any],
    folder: Path,
    *,
    threads: int,
    timeout_seconds: float,
    on_event: Callable[[dict[str, Any] | None], None],
    devices: str,
    memory: int,
) -> dict[str, Any]:
    """Train on the cluster at `address` and return the result; a job of the same training that is there already is taken up.

    As `run_child`, but for three ends: where `on_event` raises what another process goes on with, or the cluster is
    away (`ClusterAwayError`), the job is left at work; and one that somebody ended on the cluster is a plain
    `StarloopError`.
    """
    with Cluster(address) as cluster:
        order = read_order(folder)
        if order is None:
            settle(folder)
            order = Order(
                job=f"starloop-{secrets.token_hex(8)}",
                address=address,
                release=version("starloop"),
                spec=dict(spec),
                threads=threads,
                gpus=gpus_of(devices),
                memory=memory,
                timeout_seconds=timeout_seconds,
            )
            _write(folder, order)
            try:
                cluster.submit(
                    order.job,
                    # -P: a stray json.py in the job's working directory must not be imported
                    f"python -P -m trainer.job {shlex.quote(str(folder))} {order.job}",
                    folder.name,
                    cpus=threads,
                    gpus=order.gpus,
                    memory=memory,
                )
            except BaseException:
                _forget(folder, order)  # should the cluster have taken it even so, it finds no order
                raise
            _log.info("the training in %s is job %s on Ray at %s", folder, order.job, address)
        else:
            _log.info("job %s on Ray at %s is taken up again", order.job, address)
        try:
            result = _watch(cluster, order, folder, timeout_seconds, on_event)
        except BaseException as error:
            if not getattr(error, "goes_on", False):
                abandon(folder)
            raise
        _forget(folder, order)
        return {**result, "ray": {"address": address, "job": order.job}}


def abandon(folder: Path) -> None:
    """End the job of a training's folder, if one is at work for it: nobody waits for it any more.

    Of one whose end cannot be known now a note stays, and `settle` tries again.
    """
    order, file = read_order(folder), folder / ORDER
    try:
        if order is None:
            file.unlink(missing_ok=True)  # where it cannot be read: whoever works by it ends
        else:
            file.rename(folder / _LEFT_ORDER.format(order.job))
    except OSError as error:
        raise StorageError(f"{file}: cannot be taken away ({error.strerror}); make it writable") from error
    try:
        settle(folder)
    except StarloopError as error:
        _log.warning("%s", error)


def settle(folder: Path) -> None:
    """See to it that jobs that were left have ended. Raises `UnavailableError` where that cannot be known."""
    for order, file in left_orders(folder):
        try:
            _end(folder, order)
        except StarloopError as error:
            raise UnavailableError(
                f"job {order.job} on Ray at {order.address} may still be at work in {folder}, so nobody else trains there: {error}. "
                f"It ends by itself when it sees that it is not wanted; if you know that it has ended, remove {file}"
            ) from error
        _forget(folder, order)
        file.unlink(missing_ok=True)


def left_orders(folder: Path) -> list[tuple[Order, Path]]:
    """The orders of jobs that were told to end and are not known to have, each with its file."""
    found = ((_read(file), file) for file in sorted(folder.glob(_LEFT_ORDER.format("*"))))
    return [(order, file) for order, file in found if order is not None]


def _end(folder: Path, order: Order) -> None:
    """Have a job stopped. Raises `StarloopError` where neither the cluster nor its own last word says that it ended."""
    if _has_left(folder, order):
        return
    try:
        with Cluster(order.address) as cluster:
            cluster.stop(order.job)
            until = time.monotonic() + _END
            while True:
                job = cluster.look(order.job)
                if job is None or job.status in OVER:
                    return
                if time.monotonic() > until:
                    raise UnavailableError(f"it was stopped {_END:.0f} s ago, and Ray has it as {job.status}")
                time.sleep(0.2)
    except StarloopError:
        time.sleep(2 * HEARTBEAT)  # by then it has seen that it is not wanted
        if not _has_left(folder, order):
            raise


def _has_left(folder: Path, order: Order) -> bool:
    """Whether the job's own last word stands in the folder."""
    told = _Events(folder / order.events).fresh()
    return bool(told) and told[-1]["event"] in _LAST


def leave_only(folder: Path, address: str, spec: Mapping[str, Any]) -> None:
    """End the folder's job unless it is this very training on this very cluster.

    Raises `UnavailableError` where one that is not may still be at work there.
    """
    order = read_order(folder)
    if order is None or order.address != address or order.spec != spec:
        if order is not None:
            _log.info("job %s on Ray at %s is ended: another training is wanted", order.job, order.address)
        abandon(folder)
    settle(folder)


class _Events:
    """Reads on where it stopped; a line is taken when it is whole."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = 0

    def fresh(self) -> list[dict[str, Any]]:
        try:
            with self._file.open("rb") as opened:
                opened.seek(self._at)
                whole = opened.read().rpartition(b"\n")
        except OSError:  # not there yet, or the shared directory is away for a moment
            return []
        self._at += len(whole[0]) + len(whole[1])
        return [json.loads(line) for line in whole[0].splitlines()]


def _watch(
    cluster: Cluster,
    order: Order,
    folder: Path,
    timeout_seconds: float,
    on_event: Callable[[dict[str, Any] | None], None],
) -> dict[str, Any]:
    events, log = _Events(folder / order.events), folder / "finetune.log"
    heard = began = time.monotonic()
    job: Job | None = None
    ended: float | None = None
    while True:
        fresh = events.fresh()
        for event in fresh:
            if event["event"] == "failed":
                raise failure_of(event, log)
            on_event(event)
            if event["event"] == "done":
                return _arrived(event, folder)
        if not fresh:
            on_event(None)
        now = time.monotonic()
        if fresh:
            heard = now
        if now - began > timeout_seconds:
            waits = f", and waits for a node with {order.threads} CPUs and {order.gpus} GPUs"
            raise StarloopError(
                f"the training's job {order.job} did not end within {timeout_seconds:.0f} s and was stopped; Ray has it as "
                f"{'unknown' if job is None else job.status}{waits if job is not None and job.status == 'PENDING' else ''}. "
                "Raise [training] timeout_seconds, train on less, or ask for less ([training] devices, threads, memory_limit)"
            )
        if ended is None:
            try:
                job = cluster.look(order.job)
            except UnavailableError as error:
                if now - heard > AWAY:
                    raise ClusterAwayError(
                        f"{error}. Job {order.job} of the training may be at work there, and is taken up when it answers"
                    ) from error
            else:
                heard = now
                if job is None or job.status in OVER:
                    ended = now
                    continue  # its last words may stand in the file by now
        elif _wordless(job) or now - ended > SETTLE or _said(cluster, order) is not None:
            raise _end_of(cluster, order, job, log)
        time.sleep(HEARTBEAT)


def _wordless(job: Job | None) -> bool:
    """Whether no word of the training itself can be on its way."""
    return job is None or job.status == "STOPPED"


def _said(cluster: Cluster, order: Order) -> dict[str, Any] | None:
    """How the job failed by its own words in the cluster's log, which it has where it has not the folder."""
    with suppress(StarloopError):
        for line in reversed(cluster.log(order.job).splitlines()):
            if line.startswith('{"event": "failed"'):
                found: dict[str, Any] = json.loads(line)
                return found
    return None


def _end_of(cluster: Cluster, order: Order, job: Job | None, log: Path) -> StarloopError:
    where = f"job {order.job} on Ray at {order.address}"
    if job is None:
        return ChildDiedError(
            f"the cluster does not know {where} any more: its head was started anew, or somebody deleted the job"
        )
    if job.status == "STOPPED":
        return StarloopError(f"{where} was stopped on the cluster by somebody; start the training again")
    if (said := _said(cluster, order)) is not None:
        return failure_of(said, log)
    message = " / ".join((job.message or "no reason given").strip().splitlines())
    short = message if len(message) <= 600 else f"{message[:300]} … {message[-300:]}"
    return ChildDiedError(f"{where} ended without a result ({job.status}): {short}; its log is {log}")


def _arrived(event: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The result, once the adapter stands here byte for byte as the node checked and saved it."""
    until = time.monotonic() + SETTLE
    while True:
        with suppress(OSError):
            if digests_of(folder / "adapter") == event["files"]:
                result: dict[str, Any] = event["result"]
                return result
        if time.monotonic() > until:
            raise StorageError(
                f"{folder / 'adapter'} is not what the node saved: the data directory must be one and the same directory on "
                "Starloop's machine and on every node"
            )
        time.sleep(HEARTBEAT)


def _write(folder: Path, order: Order) -> None:
    partial = folder / f"{ORDER}.partial"
    try:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(order), indent=1))
        partial.replace(folder / ORDER)
    except OSError as error:
        raise StorageError(
            f"{partial}: could not be written ({error.strerror}); make room on the disk"
        ) from error


def _forget(folder: Path, order: Order) -> None:
    for name in (ORDER, order.events):
        (folder / name).unlink(missing_ok=True)
