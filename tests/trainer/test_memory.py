"""What a training says it took is what it took itself."""

from __future__ import annotations

import subprocess
import sys


def test_the_peak_of_a_child_is_its_own_and_not_its_parents() -> None:
    child = "from trainer.memory import largest_memory; print(largest_memory())"
    parent = (
        "import subprocess, sys\n"
        "held = bytearray(b'x') * (1 << 30)\n"
        f"print(subprocess.check_output([sys.executable, '-c', {child!r}], text=True))"
    )
    found = int(subprocess.check_output([sys.executable, "-c", parent], text=True))
    assert 50e6 < found < 900e6
