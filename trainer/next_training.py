"""What `starloop doctor` says of a model's next training: whether it fits, how long it takes and what it costs."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace
from sqlmodel import Session, col, select

from feedback import starter
from feedback.checks.cost import parameters_of
from feedback.datasets.methods import Method, choose
from feedback.errors import DataRefusedError
from feedback.registry.bases import STARTER
from feedback.registry.versions import list_versions
from feedback.settings import Engine, Model, Settings
from feedback.storage.tables import DatasetVersion, ModelVersion
from trainer.machine import Machine
from trainer.method import evidence_of
from trainer.nights import too_short
from trainer.preflight import Rows, gigabytes, plan, planned, refuse_too_large, refuse_unrendered

_PLANNED = Rows(count=1000, tokens=200_000, longest=400, answered=0.3)

_OPTION, _SHARE = "--gpu-memory-utilization", 0.92
"""How vLLM is told its share of a GPU, and what it takes where it is not (0.32)."""

State = Literal["ok", "note", "warning", "problem"]


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    about: str
    state: State
    text: str


def next_training(session: Session | None, settings: Settings, model: Model, machine: Machine) -> Finding:
    """What the training of a model on its newest dataset version takes, by the method that would be chosen; on assumed rows before
    there is one."""
    about = f"training {model.name}"
    if settings.training.ray:
        return Finding(
            about, "note", "goes to Ray; what it takes of a node's memory and time is not known here"
        )
    directory = directory_of(model.base)
    if directory is None:
        return Finding(
            about, "note", f"{model.base} is not on this disk, so what its training takes is not known yet"
        )
    if not parameters_of(directory):
        return Finding(
            about, "note", f"{directory} holds no whole safetensors, so what its training takes is not known"
        )
    newest, versions = None, list[ModelVersion]()
    if session is not None:
        query = select(DatasetVersion.id).where(DatasetVersion.model == model.name)
        newest = session.exec(query.order_by(col(DatasetVersion.id).desc()).limit(1)).first()
        versions = list_versions(session, model.name)
    training, wanted = settings.training, None
    method: Method = "sft" if training.method == "auto" else training.method
    what = "its newest dataset version"
    if newest is not None:
        folder = settings.directory / "datasets" / newest
        try:
            method = choose(training.method, evidence_of(folder)).method
        except DataRefusedError as error:
            return Finding(about, "problem", f"{what}, {newest}: {error}")
        wanted = plan(directory, folder, training, machine, method, versions)
    if wanted is None:
        what = "1,000 rows of 200 tokens"
        rows = _PLANNED if method == "sft" else replace(_PLANNED, tokens=2 * _PLANNED.tokens)
        wanted = planned(directory, rows, training, machine, method, versions)
    told = f"{what} by {method.upper()}: {wanted.told()}"
    try:
        refuse_unrendered(wanted)
        refuse_too_large(wanted, machine.device_memory, training.memory_limit)
    except DataRefusedError as error:
        return Finding(about, "problem", f"{told}; {error}")
    left = _left_by_engines(settings, machine)
    if wanted.memory is not None and wanted.memory.total > min(left, machine.device_free):
        short = f"only {gigabytes(machine.device_free)} are free now"
        if left < machine.device_free:
            short = f"only {gigabytes(left)} are left beside the engine with its key-value cache"
        if not (training.engine_asleep and training.window):
            return Finding(about, "warning", f"{told}; {short}: {_advice(machine)}")
        told += f"; {short}, and the engines that Starloop starts sleep while it trains"
    if (warning := too_short(wanted, training)) is not None:
        return Finding(about, "warning", f"{told}; {warning}")
    return Finding(about, "ok", told)


def _left_by_engines(settings: Settings, machine: Machine) -> int:
    """Bytes of the device that trains which are left when the engines run that Starloop starts. They may not run yet; where they take
    a GPU it is the first, and on a CPU what they take is part of what is not free."""
    devices = settings.training.devices
    if not machine.gpus or (devices and "0" not in devices.split(",")):
        return machine.device_memory
    here = (one for one in settings.engine if not one.urls and "CUDA_VISIBLE_DEVICES" not in one.environment)
    return int(machine.device_memory * max(0.0, 1 - sum(map(_share, here))))


def _share(engine: Engine) -> float:
    words = [part for word in engine.arguments for part in word.split("=", 1)]
    for option, value in pairwise(words):
        if option.replace("_", "-") == _OPTION:
            with suppress(ValueError):
                return float(value)
    return _SHARE


def _advice(machine: Machine) -> str:
    return (
        'lower the engine\'s share, for instance [[engine]] arguments = ["--gpu-memory-utilization", "0.6"], or let it sleep '
        "meanwhile ([training] window and engine_asleep)"
        if machine.gpus
        else "end what else runs here, or lower [training] batch or max_tokens"
    )


def directory_of(base: str) -> Path | None:
    """A base's folder; None where it is not on this disk."""
    path = starter.model_directory() if base == STARTER else Path(base).expanduser()
    return path if path.is_dir() else None
