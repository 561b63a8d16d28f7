"""Options of the commands that start processes: where the configuration and the data are, and on which port."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from feedback.commands.options import plain_errors
from feedback.settings import Settings
from feedback.settings_file import load

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Place:
    """The configuration, and what a child process has to inherit in order to read the same."""

    settings: Settings
    config: Path | None
    environment: dict[str, str]

    @property
    def arguments(self) -> list[str]:
        """`--config …` for a child, or nothing."""
        return [] if self.config is None else ["--config", str(self.config)]


port_option = click.option(
    "--port", type=click.IntRange(1, 65535), help="Port to serve on; goes before server.port."
)
"""For commands that serve; stands below `place_options`, which takes what it gives."""


def place_options(function: F) -> F:
    """Add `--config` and `--data-dir`, and call the command with `place: Place`."""

    @click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="STARLOOP_CONFIG",
        help="Configuration file; without it, starloop.toml in this directory if there is one.",
    )
    @click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where data is kept; goes before storage.directory.",
    )
    @functools.wraps(function)
    @plain_errors
    def wrapped(
        *arguments: Any, config: Path | None, data_dir: Path | None, port: int | None = None, **options: Any
    ) -> Any:
        if config is None and Path("starloop.toml").is_file():
            config = Path("starloop.toml")
        environment = dict(os.environ)
        if config is not None:
            config = config.absolute()
            environment["STARLOOP_CONFIG"] = str(config)
        if data_dir is not None:
            environment["STARLOOP_STORAGE__DIRECTORY"] = str(data_dir.absolute())
        if port is not None:
            environment["STARLOOP_SERVER__PORT"] = str(port)
        place = Place(load(config, environment), config, environment)
        return function(*arguments, place=place, **options)

    return wrapped  # type: ignore[return-value]
