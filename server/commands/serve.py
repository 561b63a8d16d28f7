"""`starloop serve`: the gateway alone, on uvicorn."""

from __future__ import annotations

import gc
import logging
import math
import os
import shlex
import shutil
import socket
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import click

from feedback.errors import UnavailableError
from feedback.logs import configure
from feedback.settings import Settings
from server.commands.apart import check_files, do_apart
from server.commands.place import Place, place_options, port_option
from server.processes.ports import Listener, check_free, raise_file_limit, url_of
from server.processes.workers import BACKLOG, Workers, listen
from server.telemetry.traces import check_traces, with_endpoint

_KILL_SLACK_SECONDS = 5
_GARBAGE_AFTER = 20_000
"""Objects made and not freed before the collector looks for cycles among them."""
_KEEP_ALIVE_SECONDS = 75
"""How long a connection may wait for its next request: longer than proxies keep theirs, so that they end them first."""
_log = logging.getLogger(__name__)


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
    # Sockets of several workers share a port (SO_REUSEPORT), and so would another gateway's, without a word.
    check_free(Listener(server.host, server.port, "[server] port", "set another one, or give --port"))
    check_traces(with_endpoint(place.settings, place.environment).server.traces)
    configure(server.log)
    metrics = place.settings.directory / "metrics" / str(server.port)
    shutil.rmtree(metrics, ignore_errors=True)  # counted by a gateway that is over
    os.environ.update(place.environment)  # what the workers read
    do_apart(_upgrade, place.settings)
    if find_spec("setproctitle"):
        from setproctitle import setproctitle

        setproctitle(_title(place))
    raise_file_limit()
    workers = Workers(
        listen(server.host, server.port, server.workers),
        partial(_work, place.settings, metrics),
        math.ceil(server.drain_seconds) + _KILL_SLACK_SECONDS,
    )
    _log.info("listening on %s", url_of(server.host, server.port))
    served = workers.run()
    shutil.rmtree(metrics, ignore_errors=True)
    if not served:
        raise UnavailableError("the gateway could not start; the lines above say why")


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


def _work(settings: Settings, metrics: Path, listener: socket.socket) -> None:
    """In a worker: serve on the socket until SIGTERM, then end what is under way."""
    from uvicorn import Config, Server

    from server.app import from_environment  # only workers need it: the main process stays small
    from server.protocol import Protocol

    configure(settings.server.log)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    application = from_environment(metrics)
    # What stands now stays: looking through it again and again took 8 % of a busy worker's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER)

    class Ending(Server):
        """Lets go of the pages that listen before it waits for what is under way: they would listen on."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            application.state.gateway.updates.stop()
            await super().shutdown(sockets)

    server = Ending(
        Config(
            cast("Callable[..., Any]", application),
            http=Protocol,
            ws="none",
            loop="uvloop",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            # Whose request it is decides who may do what: that is read off the connection, never off a header.
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(settings.server.drain_seconds),
        )
    )
    server.run([listener])


def _title(place: Place) -> str:
    return shlex.join(["starloop", "serve", *place.arguments])
