"""`starloop failures`: what triage found, and what a person makes of it."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime

import click
from rich.table import Table

from feedback.access.audit import note
from feedback.commands.options import emit, json_option, listing, person, settings_option
from feedback.datasets.failures import list_failures, resolve_failure
from feedback.settings import Settings
from feedback.storage.database import opened
from feedback.storage.tables import Failure

_STATES = click.Choice(["quarantine", "corrected", "accepted", "dismissed"])


@click.group(short_help="failure cases: list and resolve")
def failures() -> None:
    """Failure cases that triage selected, with their reasons."""


@failures.command("list", short_help="failure cases, newest first")
@click.option("--model", help="Only this model's.")
@click.option("--state", type=_STATES, help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", help="next_cursor of the page before.")
@json_option
@settings_option
def list_(
    settings: Settings, model: str | None, state: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Failure cases, newest first.

    Example: starloop failures list --model assistant --state quarantine
    """
    with opened(settings) as database, database.reading() as session:
        page = list_failures(session, model, state, limit, cursor)
    items = [row.model_dump() for row in page.items]
    emit({"items": items, "next_cursor": page.next_cursor}, as_json, lambda: _table(page.items))


@failures.command(short_help="correct, accept or dismiss one")
@click.argument("failure_id", metavar="ID")
@click.option("--action", type=click.Choice(["correct", "accept", "dismiss"]), required=True)
@click.option("--correction", help="The right answer, with the action correct.")
@click.option("--by", default=getpass.getuser, show_default="you", help="Who decides.")
@json_option
@settings_option
def resolve(
    settings: Settings, failure_id: str, action: str, correction: str | None, by: str, as_json: bool
) -> None:
    """Say what is to become of a failure case.

    Example: starloop failures resolve ID --action correct --correction '{"intent": "refund", "urgency": "low"}'
    """
    with opened(settings) as database, database.session() as session:
        now = datetime.now(UTC)
        row = resolve_failure(session, failure_id, action, correction, by, settings, now)  # type: ignore[arg-type]
        note(session, person(), "failure.resolve", row.id, now, model=row.model, action=action, by=by)
        session.commit()
    emit(row.model_dump(), as_json, lambda: f"Failure case {row.id} is {row.state}.")


def _table(rows: list[Failure]) -> Table:
    return listing(
        "failure cases",
        ["id", "model", "state", "reasons", "inference"],
        [
            [row.id, row.model, row.state, " ".join(one["reason"] for one in row.reasons), row.inference_id]
            for row in rows
        ],
    )
