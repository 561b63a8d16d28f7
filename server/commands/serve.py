"""`starloop serve`: the gateway alone, on Granian."""

from __future__ import annotations

import logging
import math
import os
import shlex
from functools import partial
from importlib.util import find_spec
from typing import Any

import click
from granian.constants import Interfaces
from granian.server import Server

from feedback.errors import UnavailableError
from feedback.storage.database import open_database
from server.commands.place import Place, place_options
from server.processes.leash import tie_to
from server.processes.ports import Listener, check_free

_KILL_SLACK_SECONDS = 5
_BACKLOG = 2048
_CONCURRENT = 1024


@click.command(short_help="one process of it: the gateway")
@place_options
def serve(place: Place) -> None:
    """Serve the API and the pages, with `server.workers` worker processes.

    Brings the database up to date before the first worker starts. On SIGTERM no new request is taken, and those under
    way have `server.drain_seconds` to end.

    Example: starloop serve --config starloop.toml --port 8080
    """
    server = place.settings.server
    # Granian shares its port with whoever listens already (SO_REUSEPORT), without a word.
    check_free(Listener(server.host, server.port, "[server] port", "set another one, or give --port"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _upgrade(place)
    os.environ.update(place.environment)  # what the workers read
    Server(
        "server.app:from_environment",
        address=server.host,
        port=server.port,
        interface=Interfaces.ASGI,
        workers=server.workers,
        backlog=_BACKLOG,
        backpressure=_CONCURRENT,
        websockets=False,
        respawn_failed_workers=True,
        workers_kill_timeout=math.ceil(server.drain_seconds) + _KILL_SLACK_SECONDS,
        log_dictconfig={"loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": True}}},
        process_name=_title(place) if find_spec("setproctitle") else None,
    ).serve(target_loader=partial(_load_app, os.getpid()), wrap_loader=False)


def _upgrade(place: Place) -> None:
    """Once, before the workers. With the database away they start even so, and see to it when it is back."""
    database = open_database(place.settings)
    try:
        database.upgrade()
    except UnavailableError as error:
        logging.getLogger(__name__).warning("starting without the database: %s", error)
    finally:
        database.close()


def _load_app(parent: int) -> Any:
    """In a worker: the application. Granian's own loader would look for it in the working directory first."""
    from server.app import from_environment  # only workers need it: the main process stays small

    tie_to(parent)
    return from_environment()


def _title(place: Place) -> str:
    return shlex.join(["starloop", "serve", *place.arguments])
