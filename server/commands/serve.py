"""`starloop serve`: the gateway alone, on Granian."""

from __future__ import annotations

import gc
import logging
import math
import os
import shlex
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server import Server

from feedback.errors import UnavailableError
from feedback.settings import Settings
from server.commands.apart import check_files, do_apart
from server.commands.place import Place, place_options, port_option
from server.head import HEAD_BYTES
from server.processes.leash import tie_to
from server.processes.ports import Listener, check_free
from server.telemetry.logs import Form, configure
from server.telemetry.traces import check_traces, with_endpoint

_KILL_SLACK_SECONDS = 5
_BACKLOG = 2048
_CONCURRENT = 1024
_GARBAGE_AFTER = 20_000
"""Objects made and not freed before the collector looks for cycles among them."""
_HEAD_SECONDS = 30
"""How long a request's head may take. The server's own limits are 100 fields and an address of 64 KiB."""


@click.command(short_help="one process of it: the gateway")
@place_options
@port_option
def serve(place: Place) -> None:
    """Serve the API and the pages, with `server.workers` worker processes.

    Brings the database up to date before the first worker starts. On SIGTERM no new request is taken, and those under
    way have `server.drain_seconds` to end.

    Example: starloop serve --config starloop.toml --port 8080
    """
    check_files(place.settings)
    server = place.settings.server
    # Granian shares its port with whoever listens already (SO_REUSEPORT), without a word.
    check_free(Listener(server.host, server.port, "[server] port", "set another one, or give --port"))
    check_traces(with_endpoint(place.settings, place.environment).server.traces)
    configure(server.log)
    metrics = place.settings.directory / "metrics" / str(server.port)
    shutil.rmtree(metrics, ignore_errors=True)  # counted by a gateway that is over
    os.environ.update(place.environment)  # what the workers read
    do_apart(_upgrade, place.settings)
    Server(
        "server.app:from_environment",
        address=server.host,
        port=server.port,
        interface=Interfaces.ASGI,
        # HTTP/2 is a proxy's business; with both, one malformed head keeps a worker from ever stopping by itself.
        http=HTTPModes.http1,
        workers=server.workers,
        backlog=_BACKLOG,
        backpressure=_CONCURRENT,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=_HEAD_SECONDS * 1000, max_buffer_size=HEAD_BYTES),
        respawn_failed_workers=True,
        workers_kill_timeout=math.ceil(server.drain_seconds) + _KILL_SLACK_SECONDS,
        log_dictconfig={"loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": True}}},
        process_name=_title(place) if find_spec("setproctitle") else None,
    ).serve(target_loader=partial(_load_app, os.getpid(), server.log, metrics), wrap_loader=False)
    shutil.rmtree(metrics, ignore_errors=True)


def _upgrade(settings: Settings) -> None:
    """Bring the database up to date. With it away the workers start even so, and do it once it is back."""
    from feedback.storage.database import open_database

    try:
        database = open_database(settings)
        try:
            database.upgrade()
        finally:
            database.close()
    except UnavailableError as error:
        logging.getLogger(__name__).warning("starting without the database: %s", error)


def _load_app(parent: int, log: Form, metrics: Path) -> Any:
    """In a worker: the application. Granian's own loader would look for it in the working directory first."""
    from server.app import from_environment  # only workers need it: the main process stays small

    tie_to(parent)
    configure(log)
    application = from_environment(metrics)
    # What stands now stays: looking through it again and again took 8 % of a busy worker's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER)
    return application


def _title(place: Place) -> str:
    return shlex.join(["starloop", "serve", *place.arguments])
