"""`starloop up`: everything on this machine."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from server.commands.apart import check_files
from server.commands.place import Place, place_options, port_option
from server.engine.process import engine_child, engine_listener, managed_engines
from server.engine.rest import rest_of
from server.processes.child import Child, Launch, Terms
from server.processes.claim import Claim
from server.processes.family import Identity, myself
from server.processes.ports import Listener, check_free, url_of
from server.processes.probe import answers
from server.processes.record import end_left_over
from server.supervisor import Post, Supervisor

_START_SECONDS = 120.0
_LOOP_GRACE_SECONDS = 30.0
_DRAIN_SLACK_SECONDS = 10.0


@click.command(short_help="engine, gateway and loop on this machine")
@place_options
@port_option
def up(place: Place) -> None:
    """Start the engine, the gateway and the loop, watch them, and end them all on Ctrl-C or SIGTERM.

    What each of them says stands in `logs/` in the data directory. With no configuration at all it serves the starter
    model as `assistant` on http://127.0.0.1:8000/ and keeps its data in ./starloop-data.

    Example: starloop up --data-dir /srv/starloop --port 8080
    """
    check_files(place.settings)
    server, directory = place.settings.server, place.settings.directory
    claim = Claim(directory, "up")
    for name in end_left_over(directory / "run"):
        click.echo(f"{name}: ended; a former run had left it behind")
    engines = managed_engines(place.settings)
    check_free(Listener(server.host, server.port, "[server] port", "set another one, or give --port"))
    for engine in engines:
        check_free(engine_listener(engine))
    owner = myself()
    served = [engine_child(engine, directory, place.environment, owner, click.echo) for engine in engines]
    gateway, loop = _gateway(place, owner), _loop(place, owner)
    supervisor = Supervisor(
        [Post(gateway), Post(loop, after=gateway), *map(Post, served)],
        click.echo,
        f"open {url_of(server.host, server.port)}/ (Ctrl-C ends it; logs are in {directory / 'logs'})",
        rest_of(place.settings, engines, served, click.echo),
    )
    status = supervisor.run()
    claim.release()
    sys.exit(status)


def _gateway(place: Place, owner: Identity) -> Child:
    server = place.settings.server
    return Child(
        "gateway",
        _launch(place, "serve"),
        Terms(start=_START_SECONDS, grace=server.drain_seconds + _DRAIN_SLACK_SECONDS),
        place.settings.directory,
        owner,
        click.echo,
        partial(answers, server.host, server.port, "/health/live"),
        server.port,
    )


def _loop(place: Place, owner: Identity) -> Child:
    terms = Terms(start=_START_SECONDS, grace=_LOOP_GRACE_SECONDS, essential=False)  # serving goes on without
    return Child("loop", _launch(place, "loop"), terms, place.settings.directory, owner, click.echo)


def _launch(place: Place, command: str) -> Launch:
    """A command of our own as a child. `-P` keeps folders of the working directory from passing for our packages."""
    argv = [sys.executable, "-P", "-m", "server.command", command, *place.arguments]
    return Launch(argv, place.environment, Path.cwd())
