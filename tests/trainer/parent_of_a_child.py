"""A process that runs a child and waits for it, to be killed by a test: `python parent_of_a_child.py FOLDER ERRAND [DEVICE…]`."""

from __future__ import annotations

import sys
from pathlib import Path

from trainer.process import run_child

if __name__ == "__main__":
    run_child(
        "tests.trainer.errands",
        {"errand": sys.argv[2]},
        Path(sys.argv[1]),
        threads=1,
        timeout_seconds=100,
        on_event=lambda event: print(event["pid"], flush=True) if event else None,
        devices=sys.argv[3:] or ("",),
    )
