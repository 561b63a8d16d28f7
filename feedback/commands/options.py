"""What all command groups share: the configuration they are given, and how they report."""

from __future__ import annotations

import functools
import math
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feedback.access.audit import Actor
from feedback.errors import BadFieldError, SettingsError, StarloopError
from feedback.settings_file import load

F = TypeVar("F", bound=Callable[..., Any])

_PIPED_WIDTH = 100_000
"""Columns of an output that nobody's window bounds: every row is one line there."""

json_option = click.option("--json", "as_json", is_flag=True, help="Report as JSON.")


class Between(click.FloatRange):
    """As click's own, which takes "nan" to lie in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class _Failed(click.ClickException):
    """A domain error on its way to the terminal: its sentence on stderr, exit status 1."""


class _Unusable(_Failed):
    """Configuration that cannot be used is wrong usage: exit status 2."""

    exit_code = 2


def plain_errors(function: F) -> F:
    """Show a `StarloopError` as its message (exit status 1; 2 for configuration), without a traceback."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except SettingsError as error:
            raise _Unusable(str(error)) from error
        except StarloopError as error:
            raise _Failed(str(error)) from error

    return wrapped  # type: ignore[return-value]


def settings_option(function: F) -> F:
    """Add `--config` and call the command with `settings: Settings` read from it and the environment."""

    @click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="STARLOOP_CONFIG",
        help="Configuration file; without it, starloop.toml in this directory if there is one.",
    )
    @functools.wraps(function)
    @plain_errors
    def wrapped(*arguments: Any, config: Path | None, **options: Any) -> Any:
        _check_readable(options)
        if config is None and Path("starloop.toml").is_file():
            config = Path("starloop.toml")
        return function(*arguments, settings=load(config, os.environ), **options)

    return wrapped  # type: ignore[return-value]


def _check_readable(options: Mapping[str, Any]) -> None:
    """Bytes of another encoding reach a program as halves of characters, which neither a database nor JSON takes."""
    for name, value in options.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and any("\ud800" <= sign <= "\udfff" for sign in text):
                raise BadFieldError(name, f"{text!r} is not UTF-8 text; write it again in a terminal that is")


def person() -> Actor:
    """Who runs this command, as the system knows them: a variable could say anything."""
    try:
        return Actor(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:  # in a container, users often have only a number
        return Actor(f"uid {os.getuid()}")


def emit(data: Any, as_json: bool, table: Callable[[], Table | str]) -> None:
    """Print `data` as JSON, or for people the table or text that `table` makes."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
        return
    shown = table()
    if isinstance(shown, str):
        click.echo(shown)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPED_WIDTH)
    console.print(shown, crop=False)


def listing(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], whole: Sequence[str] = ("id",)
) -> Table:
    """A plain table; None shows as a dash.

    Cells go on in the next line where the terminal is narrow, except those of `whole` columns: other commands want what
    stands there, in one piece.
    """
    table = compact_table(title)
    for number, column in enumerate(columns):
        if column in whole:
            longest = max((len(str(row[number])) for row in rows), default=0)
            table.add_column(column, no_wrap=True, min_width=longest)
        else:
            table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))  # as it stands, no markup
    return table


def compact_table(title: str) -> Table:
    """A table without a frame: two columns of the terminal between two of its own."""
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
