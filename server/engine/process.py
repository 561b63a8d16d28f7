"""The managed engine as a supervised child: what it is called, when it is ready, how long it may take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from feedback.errors import ConflictError
from feedback.registry.bases import resolve_base
from feedback.settings import Engine, Settings
from server.engine.command import engine_launch, installed_build
from server.engine.neutral import publish_neutral
from server.processes.child import Child, Terms
from server.processes.family import Identity
from server.processes.ports import Listener
from server.processes.probe import answers

_STOP_SECONDS = 20.0


def managed_engines(settings: Settings, base: str | None = None) -> list[Engine]:
    """The engines that Starloop starts itself; `base` picks one. Raises `ConflictError` when that one runs elsewhere."""
    managed = [engine for engine in settings.engine if not engine.urls]
    if base is None:
        return managed
    chosen = [engine for engine in managed if engine.base == base]
    if not chosen:
        known = ", ".join(engine.base for engine in managed) or "none"
        raise ConflictError(f"there is no managed [[engine]] with base {base!r} (managed: {known})")
    return chosen


def engine_listener(engine: Engine) -> Listener:
    """The port that it is going to take."""
    return Listener(
        engine.host,
        engine.port,
        f"[[engine]] base = {engine.base!r}: port",
        'stop what listens there, set another port, or write urls = ["http://…"] if it is an engine that you run',
    )


def engine_child(
    engine: Engine,
    directory: Path,
    environment: Mapping[str, str],
    owner: Identity,
    say: Callable[[str], None],
) -> Child:
    """The child that serves `engine.base`.

    Raises `UnavailableError` when no engine is installed and `NotFoundError` when there is no such base.
    """
    base, build = resolve_base(engine.base, directory), installed_build()
    if build == "cpu" and publish_neutral(base, directory) is None:
        say(
            f"engine-{slug(engine.base)}: no neutral adapter can be made for {engine.base}: on a CPU, requests to the "
            "base itself may be answered wrongly while versions of it are asked too"
        )
    launch = engine_launch(
        engine,
        base,
        directory,
        build,
        usable_cores(),
        environment,
    )
    return Child(
        f"engine-{slug(engine.base)}",
        launch,
        Terms(start=engine.start_seconds, grace=_STOP_SECONDS),
        directory,
        owner,
        say,
        partial(answers, engine.host, engine.port, "/health"),
        engine.port,
        "this takes about a minute, longer for a large model",
    )


def slug(base: str) -> str:
    """A base's name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.") or "base"


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
