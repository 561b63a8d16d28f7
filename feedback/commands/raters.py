"""`starloop raters`: how far each rater is believed and why, and what is held for a reviewer."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

import click

from feedback.access.audit import Act, note
from feedback.commands.options import emit, json_option, listing, person, settings_option
from feedback.commands.text import part, shortened
from feedback.datasets.contract import TaskContract
from feedback.datasets.holds import decide_hold, list_holds, read_hold, said_in
from feedback.datasets.raters import Figures
from feedback.datasets.weighing import gather
from feedback.errors import NotFoundError
from feedback.registry.models import check_known
from feedback.settings import Settings
from feedback.storage.database import opened
from feedback.storage.tables import Feedback, RaterHold


@click.group(short_help="how far raters are believed, and what is held for review")
def raters() -> None:
    """Raters with their reliability, and what came from many new raters on one target in a short time."""


@raters.command("list", short_help="reliability of each rater, lowest first")
@click.option("--model", required=True)
@click.option("--low", is_flag=True, help="Only those whose corrections wait until somebody agrees.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@json_option
@settings_option
def list_(settings: Settings, model: str, low: bool, limit: int, as_json: bool) -> None:
    """How far each rater is believed, from agreement with others and spread of the stars.

    Example: starloop raters list --model assistant --low
    """
    configured = settings.model_named(model)
    if configured is None:
        raise NotFoundError(f"there is no [[model]] named {model!r} in the configuration")
    with opened(settings, existing=True) as database:
        contract = TaskContract.from_settings(configured)
        trust = gather(database, settings, configured, contract, datetime.now(UTC)).trust
    found = sorted(trust.figures.values(), key=lambda one: (one.reliability, one.rater))
    shown = [one for one in found if one.low or not low][:limit]
    items = [asdict(one) | {"why": one.why} for one in shown]
    title = f"{len(found)} raters; the crowd's reliability is {trust.crowd:.2f}"
    columns = ["rater", "reliability", "compared", "agreement", "ratings", "spread", ""]
    emit(
        {"items": items, "next_cursor": None, "crowd": trust.crowd},
        as_json,
        lambda: listing(title, columns, [_cells(one) for one in shown], whole=()),
    )


@raters.command(short_help="what is held for a reviewer, newest first")
@click.option("--model")
@click.option("--state", type=click.Choice(["held", "released", "upheld"]))
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", help="next_cursor of the page before.")
@json_option
@settings_option
def holds(
    settings: Settings, model: str | None, state: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """What many new raters said about one target in a short time.

    Example: starloop raters holds --model assistant --state held
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        check_known(session, settings, model)
        page = list_holds(session, model, state, limit, cursor)
    items = [row.model_dump() for row in page.items]
    lines = [
        f"{row.id}  {row.state}  {row.model}  {len(row.feedback)} feedback: {row.reason}"
        for row in page.items
    ]
    text = "\n".join(lines) or "nothing is held"
    emit({"items": items, "next_cursor": page.next_cursor}, as_json, lambda: text)


@raters.command(short_help="one hold with all that waits in it")
@click.argument("hold_id", metavar="ID")
@json_option
@settings_option
def show(settings: Settings, hold_id: str, as_json: bool) -> None:
    """Who said what in it.

    Example: starloop raters show ID
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        row = read_hold(session, hold_id)
        said = said_in(session, row)
    document = row.model_dump() | {
        "said": [one.model_dump(exclude={"content_hash", "current"}) for one in said]
    }
    emit(document, as_json, lambda: _story(row, said))


@raters.command(short_help="let what is held count")
@click.argument("hold_id", metavar="ID")
@click.option("--by", default=getpass.getuser, show_default="you", help="Who decides.")
@json_option
@settings_option
def release(settings: Settings, hold_id: str, by: str, as_json: bool) -> None:
    """It was honest: from the next dataset version on it counts as anybody's.

    Example: starloop raters release ID
    """
    _decide(settings, hold_id, "release", by, as_json)


@raters.command(short_help="keep what is held out for good")
@click.argument("hold_id", metavar="ID")
@click.option("--by", default=getpass.getuser, show_default="you", help="Who decides.")
@json_option
@settings_option
def uphold(settings: Settings, hold_id: str, by: str, as_json: bool) -> None:
    """It was a brigade: it never counts.

    Example: starloop raters uphold ID
    """
    _decide(settings, hold_id, "uphold", by, as_json)


def _decide(
    settings: Settings, hold_id: str, action: Literal["release", "uphold"], by: str, as_json: bool
) -> None:
    with opened(settings, existing=True) as database, database.session() as session:
        now = datetime.now(UTC)
        row = decide_hold(session, hold_id, action, by, now)
        act: Act = "hold.release" if action == "release" else "hold.uphold"
        note(session, person(), act, row.id, now, model=row.model, by=by)
        session.commit()
    emit(row.model_dump(), as_json, lambda: f"Hold {row.id} is {row.state}.")


def _cells(one: Figures) -> list[str | int | None]:
    agreement = None if one.agreement is None else f"{one.agreement:.2f}"
    return [
        one.rater,
        f"{one.reliability:.2f}",
        f"{one.compared:.1f}",
        agreement,
        one.ratings,
        f"{one.spread:.2f}",
        "low" if one.low else "",
    ]


def _story(row: RaterHold, said: list[Feedback]) -> str:
    lines = [f"hold {row.id} of {row.model}: {row.state}", f"  why: {row.reason}"]
    for one in said:
        lines.append(f"  {one.rater}: {'no stars' if one.rating is None else f'{one.rating} of 5'}")
        lines += part("correction", shortened(one.correction)) if one.correction else []
    if row.decided_by:
        lines.append(f"  {row.state} by {row.decided_by}")
    return "\n".join(lines)
