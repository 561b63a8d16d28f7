"""Where a training runs: on which devices, in how much memory, and whether there is room just now for it and what it needs."""

from __future__ import annotations

from importlib.util import find_spec

from feedback.errors import BadInputError, UnavailableError
from feedback.settings import Training
from trainer.machine import Machine
from trainer.preflight import Preflight, gigabytes
from trainer.training import Place


def place_on(machine: Machine, settings: Training) -> Place:
    """The place of a training on this machine, as `Machine.limited_to` shows it.

    Its main memory is bounded on a CPU alone: drivers of GPUs lay claim to far more addresses than they use.
    """
    memory = 0 if machine.gpus else settings.memory_limit or machine.free
    return Place(settings.devices, memory)


def place_on_ray(settings: Training) -> Place:
    """The place of a training on the cluster of `[training] ray`, whose nodes' memory is not known here."""
    return Place(settings.devices, settings.memory_limit, settings.ray)


def wait_for_room(wanted: Preflight, machine: Machine) -> None:
    """Raise `UnavailableError`, so that it is tried again later, where the GPU is large enough but not free."""
    if wanted.memory is None or not machine.gpus or wanted.memory.total <= machine.device_free:
        return
    fullest = min(machine.gpus, key=lambda gpu: gpu.free)
    raise UnavailableError(
        f"the training needs about {gigabytes(wanted.memory.total)} on {fullest.name}, and of its "
        f"{gigabytes(fullest.memory)} only {gigabytes(fullest.free)} are free: look with nvidia-smi who holds the "
        'rest. If it is the engine, lower its share ([[engine]] arguments = ["--gpu-memory-utilization", "0.6"]) or train on '
        "another device ([training] devices)"
    )


def require_quantiser(settings: Training) -> None:
    """Raise `BadInputError` where `[training] quantisation` needs a library that is not installed where it trains."""
    if settings.quantisation and not settings.ray and find_spec("bitsandbytes") is None:
        raise BadInputError(
            f"[training] quantisation = {settings.quantisation!r} needs bitsandbytes, which is not installed: pip install "
            "'starloop[bitsandbytes]', or set it to \"\""
        )
