"""`starloop doctor`: what this machine can serve and train, and what is missing."""

from __future__ import annotations

import sys

import click
import msgspec

from feedback.commands.options import json_option, settings_option
from feedback.commands.text import harmless
from feedback.settings import Settings

_SIGNS = {"ok": "ok", "note": "note", "warning": "WARNING", "problem": "PROBLEM"}


@click.command(short_help="what this machine can serve and train, what it takes, what is missing")
@json_option
@settings_option
def doctor(settings: Settings, as_json: bool) -> None:
    """Look at machine, engine, disk, ports, keys, database and models; estimate memory, time and cost of the next training.

    Nothing is changed. The exit status is 1 when there is a problem.

    \b
    Example: starloop doctor
             starloop doctor --json --config starloop.toml
    """
    from trainer.doctor import examine  # with httpx and the database behind it

    findings = list(examine(settings))
    problems = sum(one.state == "problem" for one in findings)
    if as_json:
        document = {"items": msgspec.to_builtins(findings), "next_cursor": None, "problems": problems}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        for one in findings:
            click.echo(f"{_SIGNS[one.state]:8} {one.about}: {harmless(one.text)}")
        click.echo(f"\n{problems} problem{'' if problems == 1 else 's'}.")
    sys.exit(1 if problems else 0)
