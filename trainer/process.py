"""The parent's end of a child process: starts it, passes its events on, and sees to it that it ends.

The loop never imports torch: what needs it runs in a child that gives its memory back when it ends, that can be
killed, and that yields the cores to serving. The child's end is in `trainer.child`.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from feedback import errors

HEARTBEAT = 1.0
"""Longest time in seconds between two calls of `on_event`, so that a caller can end the child at any time."""

_KINDS: dict[str, type[errors.StarloopError]] = {
    kind.__name__: kind
    for kind in (
        errors.BadInputError,
        errors.NotFoundError,
        errors.ConflictError,
        errors.UnavailableError,
        errors.StorageError,
        errors.DataRefusedError,
        errors.UnsoundAdapterError,
    )
}


MEETING = "meeting"
"""File in a child's folder by which its processes find each other."""
_GRACE = 10.0
"""Seconds that a process has to end by itself, and with its own words, once another has."""


class ChildDiedError(errors.StarloopError):
    """The child ended without a word: it was killed, or the interpreter itself died."""


class PeerLostError(ChildDiedError):
    """A process ended because another of the same child had."""


class OutOfStepError(ChildDiedError):
    """The processes of one child do not stand at the same place. They may when they begin again."""


_KINDS |= {kind.__name__: kind for kind in (ChildDiedError, PeerLostError, OutOfStepError)}


def run_child(
    module: str,
    spec: Mapping[str, Any],
    folder: Path,
    *,
    threads: int,
    timeout_seconds: float,
    on_event: Callable[[dict[str, Any] | None], None],
    devices: Sequence[str] = ("",),
    memory: int = 0,
) -> dict[str, Any]:
    """Run `module.main(spec, emit)` in a child process and return its result.

    `folder` takes the spec and the log. `devices` are the GPUs that it sees (empty: those that this process sees,
    `cpu`: none), `memory` the bytes of main memory that it may take (0: no limit). With several `devices` the child is as many
    processes (`RANK` and `WORLD_SIZE` tell them apart), which share threads and memory, speak by the first, and
    end together. `on_event` gets every event and, at least once a second, None; whatever it
    raises ends the child and goes on to the caller. Raises the child's own error, `ChildDiedError` when it was killed, or
    a plain `StarloopError` when it ran past `timeout_seconds`.
    """
    name = module.rpartition(".")[2]
    log, spec_file = folder / f"{name}.log", folder / f"{name}.json"
    children: list[subprocess.Popen[bytes]] = []
    count = len(devices)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MEETING).unlink(missing_ok=True)
            spec_file.write_text(json.dumps(spec, indent=1), encoding="utf-8")
            for rank, seen in enumerate(devices):
                shared = _environment(max(1, threads // count)), _visible(seen), _ranked(rank, count)
                with log.open("ab") as errors_to:
                    child = subprocess.Popen(
                        # -P: a stray json.py in the working directory must not be imported
                        [
                            sys.executable,
                            "-P",
                            "-m",
                            "trainer.child",
                            module,
                            str(spec_file),
                            str(memory // count),
                        ],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=errors_to,
                        env=dict(ChainMap(*shared, dict(os.environ))),
                        start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the child
                    )
                children.append(child)
        except OSError as error:
            raise errors.StorageError(
                f"{folder}: a child process could not be started there: {error}"
            ) from error
        return _watch(children, name, log, time.monotonic() + timeout_seconds, timeout_seconds, on_event)
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def default_threads() -> int:
    """One less than the cores that this process may use, at least one: serving needs some too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def failure_of(event: Mapping[str, Any], log: Path) -> errors.StarloopError:
    """The error that a `failed` event tells of."""
    kind = _KINDS.get(event["kind"], errors.StarloopError)
    hint = f" (log: {log})" if kind is errors.StarloopError else ""
    return kind(event["message"] + hint)


def _watch(
    children: Sequence[subprocess.Popen[bytes]],
    name: str,
    log: Path,
    deadline: float,
    timeout_seconds: float,
    on_event: Callable[[dict[str, Any] | None], None],
) -> dict[str, Any]:
    """The first one's result. Where another fails alone, the first has `_GRACE` seconds to say what it knows of it."""
    lines: queue.SimpleQueue[tuple[int, bytes | None]] = queue.SimpleQueue()
    readers = [
        threading.Thread(target=_read, args=(rank, child.stdout, lines), daemon=True)
        for rank, child in enumerate(children)
    ]
    for reader in readers:
        reader.start()
    last: dict[int, dict[str, Any]] = {}
    patient_until = math.inf
    while time.monotonic() < patient_until:
        try:
            rank, line = lines.get(timeout=HEARTBEAT)
        except queue.Empty:
            on_event(None)
        else:
            if line is not None:
                last[rank] = json.loads(line)
                if rank == 0:
                    on_event(last[rank])
            elif rank == 0:
                break
            elif children[rank].wait() and last.get(rank, {}).get("event") != "done":
                patient_until = min(patient_until, time.monotonic() + _GRACE)
        if time.monotonic() > deadline:
            raise errors.StarloopError(
                f"{name} did not end within {timeout_seconds:.0f} s and was stopped; its log is {log}. "
                "Raise [training] timeout_seconds, or train on less"
            )
    ended = last.get(0, {})
    if ended.get("event") == "done":
        result: dict[str, Any] = ended["result"]
        return result
    if ended.get("event") != "failed" or ended["kind"] == PeerLostError.__name__:
        # what came of the others tells more, if it was one of them that ended first
        for rank, child in enumerate(children[1:], 1):
            with suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
                readers[rank].join()
        while not lines.empty():
            rank, line = lines.get()
            if line is not None:
                last[rank] = json.loads(line)
    for event in (last.get(rank, {}) for rank in range(len(children))):
        if event.get("event") == "failed" and event["kind"] != PeerLostError.__name__:
            raise failure_of(event, log)
    killed = next((child for child in children if (child.poll() or 0) < 0), children[0])
    killed.kill()  # where it is the first, which waits in vain
    raise ChildDiedError(f"{name} ended without a result: {_cause(killed.wait())}; its log is {log}")


def _read(rank: int, stdout: IO[bytes], lines: queue.SimpleQueue[tuple[int, bytes | None]]) -> None:
    try:
        for line in stdout:
            if line.endswith(b"\n"):  # else its writer was killed in the middle of it
                lines.put((rank, line))
    except ValueError:  # closed under the reader: the parent is done with this child
        pass
    lines.put((rank, None))


def _ranked(rank: int, count: int) -> dict[str, str]:
    """Which of the child's processes it is. They are all on this machine, so they speak over its own loop alone."""
    alone = {"RANK": str(rank), "WORLD_SIZE": str(count)}
    return (
        alone if count == 1 else {**alone, "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    )


def _environment(threads: int) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Threads that spin while they wait take the cores from the engine: a step was 20 to 60 times slower. Threads
        # that sleep at once are woken again and again: some microseconds of spinning train 1.7 times as fast with two
        # of them, and cost an engine on the same two cores 4 % of its speed.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "5000",
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # repeatable sums on GPUs
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONHASHSEED": "0",
    }


def _visible(devices: str) -> dict[str, str]:
    """What makes CUDA number its devices as `nvidia-smi` does, and show these alone."""
    if not devices:
        return {}
    shown = "" if devices == "cpu" else devices
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": shown}


def _cause(status: int) -> str:
    if status == -9:
        return "it was killed (signal 9), most often because the machine ran out of memory"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
