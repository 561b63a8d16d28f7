"""What this machine has for training: cores, memory, GPUs. Found without torch, so that the loop may ask."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import msgspec
import psutil
from msgspec import Struct

from feedback.errors import ConflictError

Device = Literal["cpu", "cuda"]
ROOM: dict[Device, int] = {"cpu": 8192, "cuda": 32768}
"""Padded tokens in one forward pass; a batch above it is accumulated from several."""
_QUERY = ["--query-gpu=uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
_SECONDS = 5.0


class Gpu(Struct, frozen=True):
    """One GPU; bytes."""

    name: str
    memory: int
    free: int
    uuid: str = ""


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
        """Of the device that trains, of several the smallest, or of the machine."""
        return min((gpu.memory for gpu in self.gpus), default=self.memory)

    @property
    def device_free(self) -> int:
        """Of that memory, what nobody holds now."""
        return min((gpu.free for gpu in self.gpus), default=self.free)

    def limited_to(self, devices: str) -> Machine:
        """The machine as a training sees it that is given these devices (`[training] devices`).

        Raises `ConflictError` for one that is not there, or is named twice.
        """
        if not devices:
            return msgspec.structs.replace(self, gpus=self.gpus[:1])
        wanted = [] if devices == "cpu" else devices.split(",")
        numbers = [self._gpu(one) for one in wanted]
        if len(set(numbers)) < len(numbers):
            raise ConflictError(
                f"[training] devices = {devices!r} names a GPU twice, and each trains one part; name each once"
            )
        return msgspec.structs.replace(self, gpus=[self.gpus[number] for number in numbers])

    def _gpu(self, name: str) -> int:
        # CUDA takes the beginning of a name for the whole
        found = next(
            (
                number
                for number, gpu in enumerate(self.gpus)
                if str(number) == name or gpu.uuid.startswith(name)
            ),
            None,
        )
        if found is None:
            there = ", ".join(f"{number} ({gpu.name})" for number, gpu in enumerate(self.gpus)) or "none"
            raise ConflictError(
                f"[training] devices names {name!r}, and the GPUs here are: {there}; name one of them, or "
                'write "cpu" to train without'
            )
        return found


def processes(devices: str) -> int:
    """How many processes train on these devices (`[training] devices`): one on each GPU that is named."""
    return len(devices.split(","))


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
    rest, total, free = (part.strip() for part in line.rsplit(",", 2))
    uuid, _, name = rest.partition(",")
    return Gpu(name.strip(), int(total) << 20, int(free) << 20, uuid)


def _container_limit() -> int:
    """Of the control group (version 2); 0 without one."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
