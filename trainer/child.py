"""The child's end of a child process: `python -m trainer.child MODULE SPEC.json [BYTES]` runs `MODULE.main(spec, emit)`.

Standard output carries one JSON object a line and nothing else: what libraries print goes to standard error, which is
the log. Standard input is a pipe that the parent never writes to: its end means that the parent is gone. The parent's
end is in `trainer.process`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from feedback.errors import StarloopError

Emit = Callable[[dict[str, Any]], None]

NICENESS = 10
"""Serving comes first: the engine beside it has niceness 0."""

_FIRST_TO_GO = 500
"""Of 1,000: how much sooner than others the kernel ends it where the machine has no memory left."""

_NOT_NEEDED = ("sklearn", "scipy", "kernels")
"""What libraries import because it is there, for parts that no child uses: a fifth of the start, and code from the hub."""
_FOR_GPUS = ("triton",)
"""What torch imports because it is there, and can use on a GPU alone: a sixth of what remains."""
_FOR_FEWER_BITS = ("bitsandbytes",)
"""What peft imports because it is there, and a quantised base needs alone: another sixth."""
_GPUS = ("nvidia*", "dxg", "kfd", "dri")
"""Names in `/dev` of GPUs that torch may work with."""


def run(module: str, spec: Path, memory: int = 0) -> int:
    """Run a module's `main` with the spec, in so many bytes of memory (0: no limit). Its end, good or bad, is the last
    line written."""
    emit = _events()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.nice(NICENESS)
    _bound(memory)
    try:
        asked = json.loads(spec.read_text(encoding="utf-8"))
        result = _load(module, bool(asked.get("quantisation")))(asked, emit)
    except StarloopError as error:
        emit({"event": "failed", "kind": type(error).__name__, "message": str(error)})
        return 1
    except OSError as error:
        emit({"event": "failed", "kind": "StorageError", "message": _storage_problem(error)})
        _trace()
        return 1
    except Exception as error:  # the process's own boundary: whatever happened is recorded and explained
        message = _memory_problem(error, memory) or f"{type(error).__name__}: {error}"
        emit({"event": "failed", "kind": "StarloopError", "message": message})
        _trace()
        return 1
    emit({"event": "done", "result": result})
    return 0


def _trace() -> None:
    """Where the error came from, for the log; it may be the log's own disk that is full."""
    with suppress(OSError):
        traceback.print_exc()


def _load(module: str, quantised: bool) -> Callable[[dict[str, Any], Emit], dict[str, Any]]:
    """The module's `main`, imported fast: what is imported stays, so collecting garbage among it is wasted time."""
    gpu = any(True for pattern in _GPUS for _ in Path("/dev").glob(pattern))
    for name in (*_NOT_NEEDED, *(() if gpu else _FOR_GPUS), *(() if quantised else _FOR_FEWER_BITS)):
        sys.modules[name] = None  # type: ignore[assignment]  # means: there is no such module
    gc.disable()
    main: Callable[[dict[str, Any], Emit], dict[str, Any]] = importlib.import_module(module).main
    gc.freeze()
    gc.enable()
    return main


def _bound(memory: int) -> None:
    """Take no more than that of what the engine needs too; and be the first to go where the machine runs out even so.

    Counted is what is written to, so that a base's file, which is mapped, does not count twice. Beyond the limit an
    allocation fails, which a training answers with smaller pieces, where without it the kernel would end somebody.
    """
    with suppress(OSError):  # no such file but on Linux
        Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_GO), encoding="ascii")
    if memory:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _memory_problem(error: Exception, memory: int) -> str | None:
    """In words, where it was memory that was missing before a step could be divided."""
    if "out of memory" in str(error):  # torch's and NCCL's, for a GPU
        return (
            f"the GPU has no room for it ({str(error).splitlines()[0]}); look with nvidia-smi who holds its memory, lower the "
            "engine's share ([[engine]] arguments), or train elsewhere ([training] devices)"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        limit = f" of the {memory / 1e9:.2f} GB that it may take ([training] memory_limit)" if memory else ""
        return f"there was no memory left{limit}; give it more, or take a smaller base"
    return None


def _events() -> Emit:
    """A writer of events on the real standard output; everything else that prints there goes to the log."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with lock:
            stream.write(json.dumps(event) + "\n")
            stream.flush()

    return emit


def _die_with_parent() -> NoReturn:
    while os.read(0, 1024):
        pass
    os._exit(3)


def _storage_problem(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"a file could not be read or written{where}: {error.strerror or error}; check the disk's room and rights"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])))
