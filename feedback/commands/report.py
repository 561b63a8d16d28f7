"""`starloop report`: a model's month, for people and for programs."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import msgspec

from feedback.commands.options import settings_option
from feedback.reports.facts import gather
from feedback.reports.forms import html, markdown
from feedback.settings import Settings
from feedback.storage.database import opened


@click.command(short_help="a model's month: ratings, failures, latency, costs, what changed")
@click.option("--model", metavar="M", required=True, help="Name of a [[model]].")
@click.option("--month", metavar="YYYY-MM", help="Which month (UTC); without it, this one so far.")
@click.option("--format", "form", type=click.Choice(["md", "json", "html"]), default="md", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@settings_option
def report(model: str, month: str | None, form: str, as_json: bool, settings: Settings) -> None:
    """Tell how a model's month was: are users rating highly, which inputs fail, is latency acceptable, what did it cost, what
    changed, which goals were met and what to do next.

    \b
    Example: starloop report --model assistant --month 2026-01 --format html > report.html
    """
    now = datetime.now(UTC)
    with opened(settings, existing=True) as database, database.reading() as session:
        found = gather(session, settings, model, f"{now:%Y-%m}" if month is None else month, now)
    if as_json or form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        click.echo(markdown(found) if form == "md" else html(found))
