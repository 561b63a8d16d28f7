"""`starloop models card`: a version's model card."""

from __future__ import annotations

import click

from feedback.commands.options import emit, json_option, settings_option
from feedback.errors import BadFieldError
from feedback.reports.card import model_card
from feedback.settings import Settings
from feedback.storage.database import opened


@click.command(short_help="a version's model card: data, training, judgement, limits")
@click.argument("version", metavar="MODEL@VERSION")
@json_option
@settings_option
def card(settings: Settings, version: str, as_json: bool) -> None:
    """Write a version's model card as Markdown: what it stands on and learned from, how it was judged, what users said.

    Example: starloop models card assistant@1.2 > CARD.md
    """
    name, _, number = version.partition("@")
    if not name or not number:
        raise BadFieldError(
            "MODEL@VERSION", f"{version[:80]!r} names no version; write for example assistant@1.2"
        )
    with opened(settings, existing=True) as database, database.reading() as session:
        text = model_card(session, name, number)
    emit({"model": name, "version": number, "card": text}, as_json, lambda: text.rstrip("\n"))
