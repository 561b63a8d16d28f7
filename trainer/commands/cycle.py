"""`starloop cycle`: run one turn of the loop, and see what the earlier ones did."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec
from sqlmodel import col, select

from feedback.access.audit import note
from feedback.commands.options import emit, json_option, person, settings_option
from feedback.registry.cycles import GUARDS, cancel_cycle, get_cycle, list_cycles, request_cycle
from feedback.registry.models import check_known
from feedback.registry.training_steps import all_steps, epochs_of
from feedback.reports.cycle_figures import figure_records, figure_table
from feedback.settings import Mode, Settings
from feedback.storage.database import opened
from feedback.storage.tables import Cycle
from trainer.training_table import training_text

if TYPE_CHECKING:
    from trainer.lease import LoopLease
    from trainer.workshop import Workshop

_OPEN = ("queued", "running")
_GONE = "the loop that led is gone; the cycle goes on here"
_FIELDS = (
    "id",
    "model",
    "mode",
    "state",
    "step",
    "decision",
    "reason",
    "guards_off",
    "requested_by",
    "dataset_id",
    "version",
    "steps",
    "result",
)


@click.group()
def cycle() -> None:
    """Turn the loop: triage, dataset, training, evaluation, gate, promotion."""


@cycle.command()
@click.option("--model", required=True, help="The model to make a next version of.")
@click.option(
    "--mode",
    type=click.Choice(["report", "propose", "auto"]),
    help="How far it may go; without it, the model's own.",
)
@click.option(
    "--without-guard",
    "guards_off",
    multiple=True,
    type=click.Choice(GUARDS),
    help="Switch a guard off, by name; can be given more than once. Without `repeat`, what was turned down is trained again.",
)
@json_option
@settings_option
def run(
    model: str, mode: Mode | None, guards_off: tuple[str, ...], as_json: bool, settings: Settings
) -> None:
    """Run a cycle to its end, or to its canary, and say what came of it.

    Where a loop is running, it is the one that works and this command waits for it; else the cycle runs here. One that
    was interrupted is gone on with. The exit status is 1 when the challenger is rejected or the cycle fails.

    Example: starloop cycle run --model assistant --mode report
    """
    from trainer.lease import LoopLease
    from trainer.opening import open_workshop

    def say(text: str) -> None:
        click.echo(text, err=True)

    def ask(workshop: Workshop) -> Cycle:
        with workshop.database.session() as session:
            chosen = mode or workshop.model(model).mode
            now = workshop.clock()
            asked = request_cycle(session, model, chosen, list(guards_off), "command line", now)
            facts = {"model": model, "mode": chosen, "guards_off": list(guards_off)}
            note(session, person(), "cycle.start", asked.id, now, **facts)
            session.commit()
        return asked

    with open_workshop(settings, existing=True) as workshop:
        workshop.model(model)
        lease = LoopLease(workshop.database, settings.schedule.lease_seconds, workshop.clock)
        leads = lease.acquire()
        row = None if leads else _follow(workshop, lease, ask(workshop).id, say)
        if row is None:
            try:
                interrupted = _interrupted(workshop, model)
                if interrupted is not None:
                    say(f"going on with cycle {interrupted.id}, which was interrupted" if leads else _GONE)
                row = _run_here(workshop, lease, (interrupted or ask(workshop)).id)
            finally:
                lease.release()
    emit(_document(row), as_json, lambda: _sentence(row))
    sys.exit(1 if row.state not in ("done", "canary") or row.decision == "rejected" else 0)


@cycle.command(name="list")
@click.option("--model", help="Only this model's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--cursor", help="Go on after the list that ended with this `next_cursor`.")
@json_option
@settings_option
def list_command(
    model: str | None, limit: int, cursor: str | None, as_json: bool, settings: Settings
) -> None:
    """List cycles, newest first.

    Example: starloop cycle list --model assistant
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        check_known(session, settings, model)
        page = list_cycles(session, model, limit, cursor)

    emit(
        {"items": [_document(row) for row in page.items], "next_cursor": page.next_cursor},
        as_json,
        lambda: _lines(page.items),
    )


@cycle.command()
@click.argument("cycle_id", metavar="ID")
@json_option
@settings_option
def show(cycle_id: str, as_json: bool, settings: Settings) -> None:
    """Show what each step of a cycle did, base, champion and challenger side by side, and its training's losses by epoch.

    Example: starloop cycle show 0199aa00-0000-7000-8000-000000000000
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        row = get_cycle(session, cycle_id)
        steps = all_steps(session, row.id)
    document = _document(row) | {
        "epochs": msgspec.to_builtins(epochs_of(steps)),
        "comparison": figure_records(row.result or {}, row.version),
    }
    training = "".join(f"\n    {line}" for line in training_text(steps))
    emit(document, as_json, lambda: _story(row) + (f"\n  training:{training}" if training else ""))


@cycle.command()
@click.argument("cycle_id", metavar="ID")
@json_option
@settings_option
def cancel(cycle_id: str, as_json: bool, settings: Settings) -> None:
    """Ask a cycle to end; one that trains ends within seconds. What serves stays as it is.

    Example: starloop cycle cancel 0199aa00-0000-7000-8000-000000000000
    """
    with opened(settings, existing=True) as database, database.session() as session:
        now = datetime.now(UTC)
        row = cancel_cycle(session, cycle_id, now)
        note(session, person(), "cycle.cancel", row.id, now, model=row.model)
        session.commit()
    emit(_document(row), as_json, lambda: f"cycle {row.id}: {row.state}, its end is asked for")


def _lines(rows: Sequence[Cycle]) -> str:
    """One line a cycle, and its reason below: ids and sentences are too long for the cells of a table."""
    lines = []
    for row in rows:
        version = f" {row.version}" if row.version else ""
        lines.append(f"{row.id}  {_time(row.created)}  {row.model}  {row.decision or row.state}{version}")
        lines += [f"    {row.reason}"] if row.reason else []
    return "\n".join(lines) or "there were no cycles yet"


def _interrupted(workshop: Workshop, model: str) -> Cycle | None:
    """A cycle of the model that nobody works on: we lead, so whoever did is gone."""
    unfinished = select(Cycle).where(col(Cycle.model) == model, col(Cycle.state).in_(_OPEN))
    with workshop.database.reading() as session:
        return session.exec(unfinished.order_by(col(Cycle.id))).first()


def _run_here(workshop: Workshop, lease: LoopLease, cycle_id: str) -> Cycle:
    from trainer.cycle import run_cycle

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # steps and training, as they go, on stderr
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with lease.kept():
        return run_cycle(workshop, workshop.record(lease, stopping, cycle_id))


def _follow(workshop: Workshop, lease: LoopLease, cycle_id: str, say: Callable[[str], None]) -> Cycle | None:
    """Wait for the loop that leads, and pass on its steps; None where it is gone and the lease is this process's now."""
    from trainer.lease import leader
    from trainer.training import Progress
    from trainer.training_lines import TrainingLines

    told = None
    training = TrainingLines(say)
    while True:
        with workshop.database.reading() as session:
            row, led = get_cycle(session, cycle_id), leader(session, workshop.clock())
        if row.state not in _OPEN:
            return row
        if led is None and lease.acquire():
            return None
        if (now := row.step or row.state) != told:
            say(f"cycle {row.id}: {now}")
            told = now
        if now == "train" and row.steps and (progress := row.steps[-1].get("progress")):
            training(msgspec.convert(progress, Progress))
        time.sleep(0.5)


def _document(row: Cycle) -> dict[str, Any]:
    times = {name: _time(getattr(row, name)) for name in ("created", "updated")}
    return {**{name: getattr(row, name) for name in _FIELDS}, **times}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _sentence(row: Cycle) -> str:
    if row.state == "canary":
        begun = next(step["outcome"] for step in reversed(row.steps) if step["outcome"])
        return (
            f"{_outcome(row)}: {begun}; the loop (`starloop up` or `loop`) ends it when they have said enough"
        )
    return f"{_outcome(row)}: {row.reason}"


def _outcome(row: Cycle) -> str:
    version = f" {row.model}@{row.version}" if row.version else ""
    return f"{row.decision or row.state}{version}"


def _story(row: Cycle) -> str:
    """Every step and what came of it; the gate's reasons stand once, though its step, the next and the end all quote them."""
    lines = [f"cycle {row.id} of {row.model} ({row.mode}), asked for by {row.requested_by}: {row.state}"]
    gate = (row.result or {}).get("gate")
    told = row.reason or ""
    for entry in row.steps:
        outcome = entry["outcome"] or "under way"
        if gate and entry["step"] == "gate" and entry["ended"]:
            deciding = outcome.removeprefix(f"{gate['decision']}: ")
            told = told.removesuffix(deciding).removesuffix(": ")
            lines += [f"  gate: {gate['decision']}", *(f"    {reason}" for reason in gate["reasons"])]
        elif outcome != row.reason:
            lines.append(f"  {entry['step']}: {outcome}")
        else:
            lines.append(f"  {entry['step']}: {row.decision or row.state}")
    table = figure_table(row.result or {}, row.version)
    if table.rows:
        lines += ["  side by side:", *(f"    {line}" for line in _columns([table.heads, *table.rows]))]
    if row.state not in _OPEN:
        lines.append(f"{_outcome(row)}: {told}" if told else _outcome(row))
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Plain columns, all but the first to the right: cells that a narrow terminal breaks up cannot be compared."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
