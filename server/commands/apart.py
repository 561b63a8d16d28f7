"""Work of a starting process that is done in a process of its own: what it loads would stay in this one for ever."""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing import get_context

import click

from feedback.errors import SettingsError, StarloopError
from feedback.settings import Settings


def do_apart(work: Callable[[Settings], None], settings: Settings) -> None:
    """Do the work and wait for it. Where it fails, say why and exit: with 2 for configuration, else with 1."""
    helper = get_context("fork").Process(target=_do, args=(work, settings))
    helper.start()
    helper.join()
    if helper.exitcode:
        sys.exit(2 if helper.exitcode == 2 else 1)


def check_files(settings: Settings) -> None:
    """Look at the files and checks that `[[model]]` names, before anything starts; exits with 2 where one is of no use."""
    if any(model.schema or model.check or model.examples for model in settings.model):
        do_apart(_check, settings)


def _check(settings: Settings) -> None:
    from feedback.datasets.model_files import check_model_files

    check_model_files(settings)


def _do(work: Callable[[Settings], None], settings: Settings) -> None:
    try:
        work(settings)
    except StarloopError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
