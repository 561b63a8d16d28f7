"""From a frozen dataset version to a published model version: train, check, reserve a number, publish.

Cycles and `starloop train` share these steps. Each may be interrupted and asked again: a training that ended is found,
a cycle keeps its number, and publishing the same weights twice changes nothing. Nothing here promotes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec.structs import asdict, replace
from sqlmodel import Session

from feedback.checks.cost import parameters_of
from feedback.datasets.methods import Choice, Method, Wanted, choose
from feedback.errors import ConflictError, NotFoundError
from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.registry.bases import Base, rendering_of, resolve_base
from feedback.registry.retirements import require_room
from feedback.registry.versions import list_versions, mark_version, reserve_version
from feedback.settings import Engine, Model, Settings
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, DatasetVersion, ModelVersion, Tuning
from feedback.tuning.requests import PREFIX
from trainer.machine import Machine, find_machine
from trainer.method import evidence_of
from trainer.nights import too_short
from trainer.placement import place_on, place_on_ray, require_quantiser, wait_for_room
from trainer.preflight import Preflight, compared, plan, refuse_too_large, refuse_unrendered
from trainer.process import default_threads, run_child
from trainer.step_log import StepLog
from trainer.tracking import require_libraries, tracking_of
from trainer.training import BETA, Progress, TrainingSpec, train
from trainer.whole_preflight import of_all_weights

_log = logging.getLogger(__name__)

CHECK_SECONDS = 1800.0
"""Longest that loading a base and one forward pass may take."""


def make_version(
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
    cycle: Cycle,
    on_progress: Callable[[Progress], None],
) -> ModelVersion:
    """A cycle's dataset version made into a published model version; the same one however often it is called."""
    if cycle.dataset_id is None:
        raise ConflictError(f"cycle {cycle.id} has no dataset version yet; its dataset step comes first")
    work = settings.directory / "runs" / cycle.id
    return train_version(
        database, settings, clock, cycle.model, cycle.dataset_id, work, on_progress, cycle_id=cycle.id
    )


def make_tuned(
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
    row: Tuning,
    on_progress: Callable[[Progress], None],
) -> ModelVersion:
    """A fine-tuning's dataset version made into a published model version; the same one however often it is called.

    What the client gave goes before `[training]`, what it left open (`auto`) is as there.
    """
    if row.dataset_id is None:
        raise ConflictError(f"fine-tuning {row.id} has no dataset version yet; its file comes first")
    given = row.hyperparameters
    training = replace(
        settings.training,
        epochs=given.get("n_epochs", settings.training.epochs),
        batch=given.get("batch_size", settings.training.batch),
        learning_rate=given.get("learning_rate", settings.training.learning_rate),
        rank=given.get("rank", settings.training.rank),
        alpha=given.get("alpha", settings.training.alpha),
        max_tokens=given.get("max_tokens", settings.training.max_tokens),
        patience=given.get("patience", settings.training.patience),
        seed=row.seed,
    )
    return train_version(
        database,
        replace(settings, training=training),
        clock,
        row.model,
        row.dataset_id,
        settings.directory / "runs" / row.id,
        on_progress,
        method="dpo" if row.method == "dpo" else "sft",
        origin={"fine_tuning": PREFIX + row.id, "suffix": row.suffix},
        apart={
            "rate_factor": float(given.get("learning_rate_multiplier", 1.0)),
            "beta": float(given.get("beta", BETA)),
        },
    )


def train_version(
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
    name: str,
    dataset_id: str,
    work: Path,
    on_progress: Callable[[Progress], None],
    cycle_id: str | None = None,
    method: Wanted | None = None,
    origin: Mapping[str, Any] = MappingProxyType({}),
    apart: Mapping[str, Any] = MappingProxyType({}),
) -> ModelVersion:
    """Train a model on a dataset version in the folder `work`, and publish what passed the checks, unpromoted.

    `method` goes before that of the settings, `origin` stands among the version's facts, and `apart` is what of the spec the
    settings do not say. Raises `NotFoundError` for an unknown model or dataset, `ConflictError` for another model's dataset, and what
    `trainer.training.train` raises; nothing is published then.
    """
    asked = what_to_train(database, settings, name, dataset_id, work, method, **apart)
    model, dataset, base, choice, spec = asked
    with database.reading() as session:
        reserved = any(
            version.cycle_id == cycle_id
            if cycle_id is not None
            else version.state == "staged" and version.dataset_id == dataset_id
            for version in list_versions(session, name)
        )
        if not reserved:
            require_room(session, model.base, _engine_of(settings, model).adapter_limit)
    require_libraries(settings.training)
    require_quantiser(settings.training)
    folder = Path(spec.dataset)
    wanted: Preflight | None = None
    gpu = None
    if settings.training.ray:
        place = place_on_ray(settings.training)
        _log.info("the training of %s goes to Ray at %s; what it takes there is not known", name, place.ray)
    else:
        machine = find_machine().limited_to(settings.training.devices)
        wanted = planned_for(database, settings, machine, name, base.path, folder, choice.method)
        place = place_on(machine, settings.training)
        by_hand = cycle_id is None and not origin  # which keeps to no window
        if wanted is not None and not by_hand and (warning := too_short(wanted, settings.training)):
            _log.warning("the training of %s: %s", name, warning)
        gpu = machine.gpus[0].name if machine.gpus else None
    steps = StepLog(database, work.name, clock)
    tracking = tracking_of(
        settings.training, settings.directory, name, work.name, _shown(spec, base, dataset_id)
    )
    with tracking:

        def told(progress: Progress) -> None:
            progress = tracking(progress)
            steps(progress)
            on_progress(progress)

        try:
            trained = train(spec, told, place)
        finally:
            steps.flush()
        facts = {
            **trained.facts,
            "run": work.name,
            "lessons": spec.lessons(),
            "method": choice.method,
            "method_reason": choice.reason,
            "gpu": gpu,
            **origin,
        }
        if untold := tracking.untold():
            facts["tracking"] = untold
        if wanted is not None:
            facts["estimate"] = compared(wanted, trained.facts)
        store = AdapterStore(settings.directory / "adapters")
        with database.session() as session:
            version = reserve_version(
                session,
                name,
                cycle_id,
                dataset_id,
                model.base,
                base.revision,
                store.hash_of(trained.adapter),
                dataset.note,
                facts,
                clock(),
                major=_another_method(session, name, choice.method),
            )
            session.commit()
        store.publish(trained.adapter, adapter_name(name, version.number), facts)
        tracking.version = adapter_name(name, version.number)
    if version.state == "staged":
        with database.session() as session:
            version = mark_version(session, name, version.number, "registered")
            session.commit()
    return version


class Asked(NamedTuple):
    """One training, as it is to be."""

    model: Model
    dataset: DatasetVersion
    base: Base
    choice: Choice
    spec: TrainingSpec


def what_to_train(
    database: Database,
    settings: Settings,
    name: str,
    dataset_id: str,
    work: Path,
    method: Wanted | None = None,
    **apart: Any,
) -> Asked:
    """What training a model on a dataset version in the folder `work` means with these settings; arguments as `train_version`'s.

    Raises `NotFoundError` for an unknown model, base or dataset, `ConflictError` for another model's dataset, `DataRefusedError` for
    one whose files are damaged, and `StorageError`.
    """
    model, dataset = asked_for(database, settings, name, dataset_id)
    choice = choose(
        method or settings.training.method, evidence_of(settings.directory / "datasets" / dataset_id)
    )
    base = resolve_base(model.base, settings.directory)
    rank = _engine_of(settings, model).max_lora_rank
    spec = spec_of(settings, base, dataset, work, max_rank=rank, method=choice.method, **apart)
    return Asked(model, dataset, base, choice, spec)


def asked_for(
    database: Database, settings: Settings, name: str, dataset_id: str
) -> tuple[Model, DatasetVersion]:
    """The model and its dataset version. Raises `NotFoundError`, and `ConflictError` for another model's dataset."""
    model = settings.model_named(name)
    if model is None:
        known = ", ".join(repr(model.name) for model in settings.model)
        raise NotFoundError(f"the configuration has no [[model]] named {name!r}; it has {known}")
    with database.reading() as session:
        dataset = session.get(DatasetVersion, dataset_id)
    if dataset is None:
        raise NotFoundError(
            f"there is no dataset version {dataset_id[:60]!r}; `starloop data list` shows those there are"
        )
    if dataset.model != name:
        raise ConflictError(
            f"dataset version {dataset_id} belongs to the model {dataset.model!r}, not to {name!r}"
        )
    return model, dataset


def spec_of(
    settings: Settings, base: Base, dataset: DatasetVersion, work: Path, **apart: Any
) -> TrainingSpec:
    """What is trained in the folder `work` on that base and dataset version; `apart` is what of it neither of them says."""
    return TrainingSpec.of(
        settings.training,
        base_path=base.path,
        base_revision=base.revision,
        rendering=rendering_of(base),
        engine_model=base.engine_model,
        dataset=str(settings.directory / "datasets" / dataset.id),
        content=dataset.content_hash,
        out=str(work),
        **apart,
    )


def _shown(spec: TrainingSpec, base: Base, dataset_id: str) -> dict[str, Any]:
    """The hyperparameters, as they are shown where steps are tracked."""
    left = ("base_path", "engine_model", "dataset", "out", "timeout_seconds", "checkpoint_seconds")
    plain = {name: value for name, value in asdict(spec).items() if name not in left}
    return {**plain, "base": base.engine_model, "dataset": dataset_id}


def planned_for(
    database: Database,
    settings: Settings,
    machine: Machine,
    name: str,
    base: str,
    dataset: Path,
    method: Method,
    whole: bool = False,
) -> Preflight | None:
    """What the training will take, said before it begins; with `whole`, of all weights.

    Raises `DataRefusedError` where it cannot fit, `UnavailableError` where somebody else holds the memory for now.
    """
    with database.reading() as session:
        wanted = plan(Path(base), dataset, settings.training, machine, method, list_versions(session, name))
    if wanted is not None:
        wanted = of_all_weights(wanted, parameters_of(Path(base))) if whole else wanted
        refuse_unrendered(wanted)
        refuse_too_large(wanted, machine.device_memory, settings.training.memory_limit)
        wait_for_room(wanted, machine)
        _log.info("the training of %s will take: %s", name, wanted.told())
    return wanted


def _engine_of(settings: Settings, model: Model) -> Engine:
    return next(engine for engine in settings.engine if engine.base == model.base)


def _another_method(session: Session, model: str, method: str) -> bool:
    """Whether the model's last version was trained in another way, which makes a new major number."""
    versions = list_versions(session, model)
    return bool(versions) and versions[0].facts.get("method", "sft") != method


def check_adapter(
    folder: Path, base_path: str, engine_model: str, max_rank: int, work: Path
) -> dict[str, Any]:
    """Check in a child process an adapter that was not trained just now; raises `UnsoundAdapterError`.

    What `train` returns was checked in the same way by the process that saved it.
    """
    return run_child(
        "trainer.soundness",
        {"folder": str(folder), "base_path": base_path, "engine_model": engine_model, "max_rank": max_rank},
        work,
        threads=default_threads(),
        timeout_seconds=CHECK_SECONDS,
        on_event=lambda event: None,
    )
