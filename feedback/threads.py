"""Names of threads as the operating system shows them (`top -H`), so that it can be seen what a thread costs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_LONGEST = 15


def name_this_thread(name: str) -> None:
    """Give the calling thread a name, where the system is Linux; Python itself does so from 3.14 on."""
    with suppress(OSError):
        Path("/proc/thread-self/comm").write_text(name[:_LONGEST])
