"""What Linux offers against orphans: a signal when the parent dies, and orphans handed to the supervisor.

Elsewhere both do nothing; there the records on disk alone let the next start end what was left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection

import psutil

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
# Loaded here, not between fork and exec, where taking a lock may wait for ever.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """Make this process the parent of every orphan among its descendants."""
    if _libc is not None:
        _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def collect_orphans(own: Collection[int]) -> None:
    """Take the exit status of adopted children that have ended; `own` are those whose status `Popen` waits for."""
    for child in psutil.Process().children():
        if child.pid not in own:
            try:
                os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                continue


def tie_to(parent: int) -> None:
    """Have this process sent SIGTERM when its parent dies, also by SIGKILL; ends it if that has happened already.

    Linux ties it to the thread that forked; so children are to be started from the main thread.
    """
    if _libc is None:
        return
    _libc.prctl(_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
