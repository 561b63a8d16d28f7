"""A process that publishes an adapter and is stopped by its parent before the last step: the rename."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from feedback.registry.adapters import AdapterStore


def _hang(_self: Path, _target: Path) -> Path:
    print("all but renamed", flush=True)
    time.sleep(600)
    raise AssertionError("nobody killed this process")


if __name__ == "__main__":
    Path.rename = _hang  # type: ignore[method-assign, assignment]
    AdapterStore(Path(sys.argv[1])).publish(Path(sys.argv[2]), sys.argv[3], {})
