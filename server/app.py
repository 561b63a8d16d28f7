"""The application, put together: settings in, ASGI application out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.di import Provide

from feedback.settings import Settings
from feedback.settings_file import load, origins
from server import errors, openapi
from server.application import Application
from server.batch_runner import BatchRunner
from server.gateway import Clock, Gateway
from server.rendering import refused
from server.request import GatewayRequest, admit
from server.routes import (
    audit,
    batches,
    canaries,
    candidates,
    cases,
    completions,
    cycle_pages,
    cycles,
    dataset_pages,
    datasets,
    erasure,
    failures,
    feedback,
    files,
    fine_tuning,
    health,
    holds,
    imports,
    inferences,
    keys,
    metrics,
    models,
    overview,
    pages,
    reading_pages,
    reports,
    review,
    session,
    settings_page,
    stored_completions,
    token_counts,
    updates,
    widget,
)
from server.telemetry.traces import ENDPOINT, with_endpoint
from server.together import files as together_files
from server.together import models as together_models
from server.together import tunings as together_tunings

_FAMILIES = (
    completions,
    token_counts,
    stored_completions,
    models,
    canaries,
    feedback,
    inferences,
    failures,
    review,
    cases,
    candidates,
    holds,
    imports,
    files,
    batches,
    fine_tuning,
    together_files,
    together_tunings,
    together_models,
    datasets,
    cycles,
    reports,
    erasure,
    audit,
    keys,
    session,
    health,
    metrics,
    pages,
    reading_pages,
    overview,
    cycle_pages,
    dataset_pages,
    settings_page,
    updates,
    widget,
)


def create_app(
    settings: Settings,
    *,
    origins: Mapping[str, str] | None = None,
    now: Clock = lambda: datetime.now(UTC),
    shared_metrics: Path | None = None,
    drains_apart: bool = False,
) -> Litestar:
    """One worker's application. Nothing is opened before the server starts it.

    `origins` says where settings that are no defaults come from, for the page that shows them.
    `shared_metrics` is the directory where several workers count together. `drains_apart` brings records to the
    database in a process beside this one.
    """
    gateway = Gateway(settings, now, shared_metrics, drains_apart, origins)

    @asynccontextmanager
    async def life(_app: Litestar) -> AsyncIterator[None]:
        await gateway.open()
        runner = BatchRunner(gateway)
        runner.start()
        try:
            yield
        finally:
            await runner.stop()
            await gateway.close()

    def provide_gateway() -> Gateway:
        return gateway

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        answer = errors.handle(request, error)
        route = request.scope.get("path_template", "").removeprefix("/together")
        gateway.reports.refused(route, answer.status_code or 500, error)
        return refused(request, answer) or answer

    return Application(
        [handler for family in _FAMILIES for handler in family.ROUTES],
        before_request=admit,
        dependencies={"gateway": Provide(provide_gateway, sync_to_thread=False)},
        exception_handlers={Exception: handle},
        lifespan=[life],
        logging_config=None,
        openapi_config=openapi.configuration(),
        request_class=GatewayRequest,
        request_max_body_size=settings.server.body_limit,
        state=State({"gateway": gateway}),
    )


def from_environment(shared_metrics: Path | None = None) -> Litestar:
    """The application of a server process: `STARLOOP_CONFIG` names the file, `STARLOOP_<SECTION>__<KEY>` overrides it."""
    named = os.environ.get("STARLOOP_CONFIG")
    path = Path(named) if named else None
    loaded = load(path, os.environ)
    settings, known = with_endpoint(loaded, os.environ), origins(path, os.environ)
    if settings.server.traces != loaded.server.traces:
        known["server.traces"] = ENDPOINT
    return create_app(settings, origins=known, shared_metrics=shared_metrics, drains_apart=True)
