"""A child module for the tests of `trainer.process`: its `main` does whatever the spec's `errand` says."""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feedback import errors

Emit = Callable[[dict[str, Any]], None]


def main(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    errand: Callable[[dict[str, Any], Emit], dict[str, Any]] = globals()[spec["errand"]]
    return errand(spec, emit)


def count(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Events among noise on standard output, of Python and of the process."""
    for number in range(3):
        print("a library greets its users")
        os.write(1, b'{"event": "done", "result": {"forged": true}}\n')
        emit({"event": "progress", "number": number})
    return {
        "threads": os.environ["OMP_NUM_THREADS"],
        "wait": os.environ["OMP_WAIT_POLICY"],
        "nice": os.nice(0),
    }


def tell_its_place(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    return {
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "order": os.environ.get("CUDA_DEVICE_ORDER"),
        "memory": resource.getrlimit(resource.RLIMIT_DATA)[0],
        "first_to_go": Path("/proc/self/oom_score_adj").read_text().strip(),
    }


def write_its_place(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Into a file of its own, for those whose results nobody asks for; the first waits for the others."""
    place = {"nice": os.nice(0), "threads": os.environ["OMP_NUM_THREADS"], **tell_its_place(spec, emit)}
    file = Path(spec["places"]) / f"place-{os.environ['RANK']}"
    file.with_suffix(".partial").write_text(json.dumps(place))
    file.with_suffix(".partial").rename(file)
    while len(list(file.parent.glob("place-?"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.05)
    return {}


def refuse_as_the_second(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    return refuse(spec, emit) if os.environ["RANK"] == "1" else wait(spec, emit)


def die_as_the_second(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    return die({"signal": signal.SIGKILL, **spec} if os.environ["RANK"] == "1" else {"signal": 0}, emit)


def end_badly_as_the_second(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """The second has done its part, and a library of its ends in an error; the first takes longer."""
    if os.environ["RANK"] == "1":
        atexit.register(os._exit, 7)
        return {}
    time.sleep(spec["seconds"])
    return {"rank": 0}


def take_memory(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    return {"taken": len(bytearray(spec["bytes"]))}


def find_the_gpu_full(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """End as torch ends where another process holds a GPU's memory, without loading torch."""

    class OutOfMemoryError(RuntimeError):
        pass

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice")


def wait(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Say the process id, then work for long."""
    emit({"event": "started", "pid": os.getpid()})
    time.sleep(120)
    return {}


def work_for_long_without_a_pause(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    emit({"event": "started", "pid": os.getpid()})
    while True:
        sum(range(1000))


def refuse(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    kind: type[errors.StarloopError] = getattr(errors, spec["kind"])
    raise kind("this cannot be, in words")


def crash(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    return {"never": {}["there"]}


def miss_a_file(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    with open("/nowhere/at/all") as file:  # noqa: PTH123
        return {"text": file.read()}


def exit_at_once(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    os._exit(spec["status"])


def die(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    os.kill(os.getpid(), spec["signal"])
    time.sleep(60)
    return {}


def die_while_writing(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Leave the first half of an event in the pipe to the parent."""
    emit({"event": "progress"})
    pipe = next(number for number in range(3, 64) if _is_pipe(number))
    os.write(pipe, b'{"event": "done", "result": {"lo')
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def show_path(spec: dict[str, Any], emit: Emit) -> dict[str, Any]:
    return {"path": sys.path}


def _is_pipe(number: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False
