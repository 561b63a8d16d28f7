"""How fast a training will go: as earlier ones like it went, else by the device: a GPU by its name, a CPU by a moment's trial."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict

from feedback.datasets.methods import Method
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
_NEWEST = 5
"""Earlier trainings of which the median counts."""


class Pace(Struct, frozen=True):
    """What a device is taken to do, and where that comes from."""

    teraflops: float
    rests_on: str


class Kind(Struct, frozen=True):
    """What makes two trainings go alike; only those are compared."""

    parameters: int
    """Of the base."""
    device: Device
    gpu: str = ""
    """Its name; empty on a CPU."""
    threads: int = 0
    """On a CPU; 0 on a GPU, which does not wait for them."""
    quantisation: str = ""
    gradient_checkpointing: bool = False
    method: Method = "sft"

    @classmethod
    def of(cls, parameters: int, machine: Machine, settings: Training, method: Method) -> Kind:
        """Of a training to come."""
        return cls(
            parameters,
            machine.device,
            machine.gpus[0].name if machine.gpus else "",
            0 if machine.gpus else threads_on(machine, settings),
            settings.quantisation,
            settings.gradient_checkpointing,
            method,
        )

    @classmethod
    def found(cls, facts: Mapping[str, Any]) -> Kind:
        """Of a version's training, by its facts."""
        device: Device = "cuda" if facts.get("device") == "cuda" else "cpu"
        return cls(
            int(facts.get("base_parameters") or 0),
            device,
            str(facts.get("gpu") or ""),
            0 if device == "cuda" else int(facts.get("threads") or 0),
            str(facts.get("quantisation") or ""),
            bool(facts.get("gradient_checkpointing")),
            facts.get("method", "sft"),
        )

    def otherwise(self, other: Kind) -> str:
        """In which ways the other was trained otherwise, in words."""
        mine, others = asdict(self), asdict(other)
        told = [
            f"{name.replace('_', ' ')} {others[name] or 'none'}"
            for name in mine
            if mine[name] != others[name]
        ]
        return ", ".join(told)


class Speed(Struct, frozen=True):
    """What earlier trainings like the one to come went at: the medians of the newest few."""

    tokens_per_second: float
    """Of one device."""
    seconds_beside: float
    """What they took besides their steps: starting, reading, checking and saving."""
    version: str
    """The newest of them."""
    trainings: int = 1
    counted: float = 1.0
    """Tokens that a pass had, for each one that was counted before it."""


class Earlier(Struct, frozen=True):
    """What a model's trainings so far say about the next one."""

    speed: Speed | None = None
    otherwise: str = ""
    """Where none was like it: which one was trained on that base, and how it was otherwise."""


NOTHING_EARLIER = Earlier()


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
    threads = threads_on(machine, settings)
    each = _OF_PRODUCT * _product() / machine.cores
    return Pace(each * threads, f"{1000 * each * threads:.0f} gigaflop/s by a trial of this CPU")


def threads_on(machine: Machine, settings: Training) -> int:
    """Threads of a training on the machine's CPU."""
    return settings.threads or max(1, machine.cores - 1)


def earlier_of(versions: Iterable[ModelVersion], kind: Kind) -> Earlier:
    """What a model's versions, newest first, say about a training of this kind.

    One training may take a quarter more or less than the same one an hour later, so the median of the newest few counts.
    """
    like: list[ModelVersion] = []
    otherwise = ""
    for version in versions:
        facts = version.facts
        # On Ray a training went at a node's speed, not this machine's.
        if facts.get("ray") or not float(facts.get("tokens_per_second") or 0.0) > 0:
            continue
        found = Kind.found(facts)
        if found == kind:
            like.append(version)
            if len(like) == _NEWEST:
                break
        elif found.parameters == kind.parameters and not otherwise:
            otherwise = f"{version.model}@{version.number} was trained otherwise: {kind.otherwise(found)}"
    if not like:
        return Earlier(otherwise=otherwise)
    every = [version.facts for version in like]
    return Earlier(
        Speed(
            median(float(facts["tokens_per_second"]) / int(facts.get("processes") or 1) for facts in every),
            median(map(_beside, every)),
            f"{like[0].model}@{like[0].number}",
            len(like),
            median(map(_counted, every)),
        )
    )


def _counted(facts: Mapping[str, Any]) -> float:
    estimated = (facts.get("estimate") or {}).get("tokens")
    return (
        float(facts["tokens_per_epoch"] / estimated) if estimated and facts.get("tokens_per_epoch") else 1.0
    )


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
