"""`starloop engine`: vLLM alone, with the same care that `up` takes of it."""

from __future__ import annotations

import sys

import click

from feedback.errors import ConflictError
from server.commands.place import Place, place_options
from server.engine.process import engine_child, engine_listener, managed_engines
from server.engine.rest import rest_of
from server.processes.claim import prepare
from server.processes.family import myself
from server.processes.ports import check_free
from server.processes.record import end_left_over
from server.supervisor import Post, Supervisor


@click.command(short_help="one process of it: the engine")
@click.option("--base", help="Only the engine of this base; without it, every [[engine]] that has no urls.")
@place_options
def engine(place: Place, base: str | None) -> None:
    """Start vLLM for the configured bases, watch it, and end it with all its workers on Ctrl-C or SIGTERM.

    A gateway elsewhere reaches it by `urls`; both see the same `adapters/` folder. Keep its port private: whoever
    reaches it can name adapters.

    Example: starloop engine --base starter --config starloop.toml
    """
    directory = prepare(place.settings.directory)
    engines = managed_engines(place.settings, base)
    if not engines:
        raise ConflictError(
            "every [[engine]] has urls, so there is none to start; remove urls to have one managed"
        )
    for name in end_left_over(directory / "run"):
        click.echo(f"{name}: ended; a former run had left it behind")
    for one in engines:
        check_free(engine_listener(one))
    owner = myself()
    children = [engine_child(one, directory, place.environment, owner, click.echo) for one in engines]
    ports = ", ".join(f"{one.host}:{one.port}" for one in engines)
    supervisor = Supervisor(
        [Post(child) for child in children],
        click.echo,
        f"engines listen on {ports} (Ctrl-C ends them)",
        rest_of(place.settings, engines, children, click.echo),
    )
    sys.exit(supervisor.run())
