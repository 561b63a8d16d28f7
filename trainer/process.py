"""The parent's end of a child process: starts it, passes its events on, and sees to it that it ends.

The loop never imports torch: what needs it runs in a child that gives its memory back when it ends, that can be
killed, and that yields the cores to serving. The child's end is in `trainer.child`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from feedback import errors

HEARTBEAT = 1.0
"""Longest time in seconds between two calls of `on_event`, so that a caller can end the child at any time."""

_KINDS = {
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


class ChildDiedError(errors.StarloopError):
    """The child ended without a word: it was killed, or the interpreter itself died."""


def run_child(
    module: str,
    spec: Mapping[str, Any],
    folder: Path,
    *,
    threads: int,
    timeout_seconds: float,
    on_event: Callable[[dict[str, Any] | None], None],
    devices: str = "",
    memory: int = 0,
) -> dict[str, Any]:
    """Run `module.main(spec, emit)` in a child process and return its result.

    `folder` takes the spec and the log. `devices` are the GPUs that it sees (empty: those that this process sees,
    `cpu`: none), `memory` the bytes of main memory that it may take (0: no limit). `on_event` gets every event and, at least once a second, None; whatever it
    raises ends the child and goes on to the caller. Raises the child's own error, `ChildDiedError` when it was killed, or
    a plain `StarloopError` when it ran past `timeout_seconds`.
    """
    name = module.rpartition(".")[2]
    log, spec_file = folder / f"{name}.log", folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        spec_file.write_text(json.dumps(spec, indent=1), encoding="utf-8")
        with log.open("ab") as errors_to:
            child = subprocess.Popen(
                # -P: a stray json.py in the working directory must not be imported
                [sys.executable, "-P", "-m", "trainer.child", module, str(spec_file), str(memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors_to,
                env={**os.environ, **_environment(threads), **_visible(devices)},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the child
            )
    except OSError as error:
        raise errors.StorageError(f"{folder}: a child process could not be started there: {error}") from error
    try:
        return _watch(child, name, log, time.monotonic() + timeout_seconds, timeout_seconds, on_event)
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def default_threads() -> int:
    """One less than the cores that this process may use, at least one: serving needs some too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def _watch(
    child: subprocess.Popen[bytes],
    name: str,
    log: Path,
    deadline: float,
    timeout_seconds: float,
    on_event: Callable[[dict[str, Any] | None], None],
) -> dict[str, Any]:
    assert child.stdout is not None
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    last: dict[str, Any] = {}
    while True:
        try:
            line = lines.get(timeout=HEARTBEAT)
        except queue.Empty:
            on_event(None)
        else:
            if line is None:
                break
            last = json.loads(line)
            on_event(last)
        if time.monotonic() > deadline:
            raise errors.StarloopError(
                f"{name} did not end within {timeout_seconds:.0f} s and was stopped; its log is {log}. "
                "Raise [training] timeout_seconds, or train on less"
            )
    status = child.wait()
    if last.get("event") == "done":
        result: dict[str, Any] = last["result"]
        return result
    if last.get("event") == "failed":
        kind = _KINDS.get(last["kind"], errors.StarloopError)
        hint = f" (log: {log})" if kind is errors.StarloopError else ""
        raise kind(last["message"] + hint)
    raise ChildDiedError(f"{name} ended without a result: {_cause(status)}; its log is {log}")


def _read(stdout: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    try:
        for line in stdout:
            if line.endswith(b"\n"):  # else its writer was killed in the middle of it
                lines.put(line)
    except ValueError:  # closed under the reader: the parent is done with this child
        pass
    lines.put(None)


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
