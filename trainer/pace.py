"""How fast a training will go: as an earlier one went, else by the device: a GPU by its name, a CPU by a moment's trial."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np
from msgspec import Struct

from feedback.settings import Training
from feedback.storage.tables import ModelVersion
from trainer.machine import Device, Machine

_PEAKS = {
    "B200": 2250, "GH200": 989, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362, "L40": 181,
    "L4": 121, "A40": 150,
    "A30": 165, "A10G": 70, "A10": 125, "RTX 6000 Ada": 364, "RTX A6000": 155, "RTX 5090": 209, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""Dense teraflop/s in bfloat16 by the makers' data sheets; the first name that a GPU's own name holds as a word counts."""
_OF_PEAK = 0.45
"""Share of it that a training comes to, counted as 6 operations for each parameter and token: 0.37 on mixed lengths and 0.61
on equal ones were measured (`train_gpu.md`)."""
_OF_PRODUCT = 0.8
"""The same for a CPU, of what it does in a plain product of matrices (measured, `train.md`)."""
_ROWS, _WIDTH = 512, 512
_TIMES = 100


class Pace(Struct, frozen=True):
    """What a device is taken to do, and where that comes from."""

    teraflops: float
    rests_on: str


class Speed(Struct, frozen=True):
    """What an earlier training on this base came to."""

    tokens_per_second: float
    """Of one device."""
    seconds_beside: float
    """What it took besides its steps: starting, reading, checking and saving."""
    version: str


def pace_of(machine: Machine, settings: Training) -> Pace | None:
    """The pace of the device that trains; None where it is not known. `[training] teraflops` goes before all else."""
    if settings.teraflops:
        return Pace(settings.teraflops, f"{settings.teraflops:g} teraflop/s as [training] teraflops has it")
    if machine.gpus:
        name = machine.gpus[0].name
        peak = next(
            (peak for known, peak in _PEAKS.items() if re.search(rf"(?<!\w){known}(?!\w)", name)), None
        )
        return (
            None
            if peak is None
            else Pace(_OF_PEAK * peak, f"{_OF_PEAK * peak:.0f} teraflop/s assumed for {name}")
        )
    threads = settings.threads or max(1, machine.cores - 1)
    each = _OF_PRODUCT * _product() / machine.cores
    return Pace(each * threads, f"{1000 * each * threads:.0f} gigaflop/s by a trial of this CPU")


def speed_of(
    versions: Iterable[ModelVersion], parameters: int, device: Device, quantisation: str = ""
) -> Speed | None:
    """What the newest of a model's versions with such a base, so quantised, was trained at, on such a device."""
    wanted = (parameters, device, quantisation or None)
    for version in versions:
        facts = version.facts
        if facts.get("ray"):  # a node's speed, not this machine's
            continue
        if (facts.get("base_parameters"), facts.get("device"), facts.get("quantisation")) == wanted:
            per_second = float(facts.get("tokens_per_second") or 0.0)
            if per_second > 0:
                name = f"{version.model}@{version.number}"
                per_second /= int(facts.get("processes") or 1)
                return Speed(per_second, _beside(facts), name)
    return None


def _beside(facts: Mapping[str, Any]) -> float:
    whole, steps = facts.get("seconds") or 0.0, facts.get("seconds_training") or 0.0
    if facts.get("resumed_at") or whole <= steps:  # the whole is the last process's alone
        return float(facts.get("seconds_loading") or 0.0)
    return float(whole - steps)


def _product() -> float:
    """Teraflop/s of all cores in products of matrices, a millisecond or so each; the median of many."""
    rng = np.random.default_rng(0)
    left, right = (rng.random((_ROWS, _WIDTH), dtype=np.float32) for _ in range(2))
    seconds = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * _ROWS * _WIDTH * _WIDTH / median(seconds) / 1e12
