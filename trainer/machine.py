"""What this machine has for training: cores, memory, GPUs. Found without torch, so that the loop may ask."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import psutil
from msgspec import Struct

Device = Literal["cpu", "cuda"]
_QUERY = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
_SECONDS = 5.0


class Gpu(Struct, frozen=True):
    """One GPU; bytes."""

    name: str
    memory: int
    free: int


class Machine(Struct, frozen=True):
    """Bytes and cores that this process may use."""

    cores: int
    memory: int
    free: int
    gpus: list[Gpu] = []

    @property
    def device(self) -> Device:
        return "cuda" if self.gpus else "cpu"

    @property
    def device_memory(self) -> int:
        """Of the device that trains: the first GPU, or the machine."""
        return self.gpus[0].memory if self.gpus else self.memory


def find_machine() -> Machine:
    """Look at the machine; a container's limit on memory counts where it is below what the machine has."""
    memory = psutil.virtual_memory()
    total = min(int(memory.total), _container_limit() or int(memory.total))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cores, total, min(int(memory.available), total), _gpus())


def _gpus() -> list[Gpu]:
    """As NVIDIA's own tool tells; none without it, and where CUDA is told to see none."""
    program = shutil.which("nvidia-smi")
    if program is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    try:
        done = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        return [_gpu(line) for line in done.stdout.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _gpu(line: str) -> Gpu:
    name, total, free = (part.strip() for part in line.rsplit(",", 2))
    return Gpu(name, int(total) << 20, int(free) << 20)


def _container_limit() -> int:
    """Of the control group (version 2); 0 without one."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
