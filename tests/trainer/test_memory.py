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


def test_tensors_for_which_there_is_no_memory_are_an_error_and_not_the_processs_end() -> None:
    """safetensors itself aborts where it finds no room for its first copy of them, and panics at its second."""
    child = (
        "import re, resource, torch\n"
        "from pathlib import Path\n"
        "from trainer.memory import is_out_of_memory, packed\n"
        "tensors = {str(place): torch.rand(2_000_000) for place in range(10)}\n"
        "packed({'warm': torch.zeros(8)})\n"
        "for room in (40, 120, 240):\n"
        "    taken = int(re.search(r'VmData:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (taken + room * 10**6, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        print(len(packed(tensors)) > 80_000_000)\n"
        "    except RuntimeError as error:\n"
        "        print(is_out_of_memory(error) and 'said')\n"
    )
    found = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["said", "said", "True"], found.stderr
