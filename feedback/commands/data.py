"""`starloop data`: dataset versions, and the golden set that versions are judged by."""

from __future__ import annotations

import getpass
import json
import secrets
from datetime import UTC, datetime

import click
from sqlmodel import col, select

from feedback.access.audit import note
from feedback.commands.check import check
from feedback.commands.imports import import_, imports
from feedback.commands.options import emit, json_option, listing, person, settings_option
from feedback.commands.text import conversation, part
from feedback.datasets.cases import confirm_case, draw_cases, drop_case, list_cases
from feedback.datasets.contract import TaskContract
from feedback.datasets.exports import FORMATS, exported
from feedback.datasets.failures import triage_in_steps
from feedback.datasets.files import SPLITS, check_files
from feedback.datasets.freeze import build_dataset
from feedback.datasets.why import why_example, why_inference
from feedback.errors import NotFoundError
from feedback.ids import new_id
from feedback.registry.models import check_known, ensure_models
from feedback.settings import Settings
from feedback.storage.database import Database, opened
from feedback.storage.tables import Case, DatasetVersion


@click.group(short_help="dataset versions and the golden set")
def data() -> None:
    """Datasets that versions are trained on, and cases that they are judged by."""


data.add_command(check)
data.add_command(import_)
data.add_command(imports)


@data.command("list", short_help="dataset versions, newest first")
@click.option("--model", help="Only this model's.")
@json_option
@settings_option
def list_(settings: Settings, model: str | None, as_json: bool) -> None:
    """All dataset versions.

    Example: starloop data list --model assistant
    """
    query = select(DatasetVersion).order_by(col(DatasetVersion.id).desc())
    if model:
        query = query.where(DatasetVersion.model == model)
    with opened(settings, existing=True) as database, database.reading() as session:
        check_known(session, settings, model)
        rows = list(session.exec(query))
    items = [row.model_dump(exclude={"manifest"}) for row in rows]
    table = listing("datasets", ["id", "model", "note"], [[row.id, row.model, row.note] for row in rows])
    emit({"items": items, "next_cursor": None}, as_json, lambda: table)


@data.command(short_help="one dataset version's manifest")
@click.argument("dataset_id", metavar="ID")
@json_option
@settings_option
def show(settings: Settings, dataset_id: str, as_json: bool) -> None:
    """Where a dataset version came from and what it holds; says whether its files are still those that were frozen.

    Example: starloop data show ID
    """
    with opened(settings, existing=True) as database:
        row = _dataset(database, dataset_id)
    intact = check_files(settings.directory, row.id, row.content_hash)
    manifest = row.manifest | {"files_intact": intact}
    emit(manifest, as_json, lambda: json.dumps(manifest, indent=2, ensure_ascii=False))
    if not intact:
        raise click.exceptions.Exit(1)


@data.command(short_help="the rows as JSONL, on standard output")
@click.argument("dataset_id", metavar="ID")
@click.option("--format", "form", type=click.Choice(FORMATS), default="chat", show_default=True)
@click.option("--split", type=click.Choice(SPLITS), help="Only this split.")
@settings_option
def export(settings: Settings, dataset_id: str, form: str, split: str | None) -> None:
    """The rows of a dataset version, in the form that a trainer reads.

    \b
    chat               {messages, tools?}, OpenAI's fine-tuning
    trl-completion     {prompt, completion}, TRL's supervised training
    trl-preference     {prompt, chosen, rejected}, TRL's DPO
    openai-preference  {input, preferred_output, non_preferred_output}
    kto                {prompt, completion, label}, TRL's KTO
    rows               all that is known of each
    holdout            failures of the evaluation side, which nothing is trained on

    Example: starloop data export ID --format trl-preference > pairs.jsonl
    """
    with opened(settings, existing=True) as database:
        row = _dataset(database, dataset_id)
    for line in exported(settings.directory, row.id, form, split):
        click.echo(json.dumps(line, ensure_ascii=False))


@data.command(short_help="why an example is in, or what was said of an inference is not")
@click.argument("dataset_id", metavar="[DATASET_ID", required=False)
@click.argument("example", metavar="EXAMPLE]", required=False)
@click.option("--inference", help="An inference instead: where what was said about it went.")
@click.option("--model", help="The inference's model.")
@json_option
@settings_option
def why(
    settings: Settings,
    dataset_id: str | None,
    example: str | None,
    inference: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Each rule and figure that let an example in, as they were when it was frozen; by its hash or position.

    Example: starloop data why DATASET_ID 0

    Example: starloop data why --inference ID --model assistant
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        if inference is not None:
            if model is None or dataset_id is not None:
                raise click.UsageError("--inference goes with --model, and without a dataset")
            found = why_inference(session, model, inference, settings.dataset.evaluation_share)
            emit(found, as_json, lambda: f"inference {inference}: {found['told']}")
            return
        if dataset_id is None or example is None:
            raise click.UsageError("give a dataset and one of its examples, or --inference with --model")
        row = _dataset(database, dataset_id)
        found = why_example(session, settings.directory, row, example)
    lines = [f"example {found['position']} of dataset {row.id} ({found['split']}, {found['source']})"]
    lines += [*conversation(found["messages"]), *part("answer", found["answer"])]
    lines += [f"  {line}" for line in found["told"]]
    emit(found, as_json, lambda: "\n".join(lines))


@data.command(short_help="curate and freeze a dataset version now")
@click.option("--model", metavar="M", required=True, help="Name of a [[model]].")
@click.option(
    "--without-guard",
    "guards_off",
    multiple=True,
    type=click.Choice(["raters", "replay", "size"]),
    help="Believe everybody (raters), leave old examples out (replay), or take too few (size).",
)
@json_option
@settings_option
def build(settings: Settings, model: str, guards_off: tuple[str, ...], as_json: bool) -> None:
    """Find failure cases and freeze what a cycle would train on, without training.

    Example: starloop data build --model assistant
    """
    now = datetime.now(UTC)
    with opened(settings, existing=True) as database:
        with database.session() as session:
            ensure_models(session, settings, now)
            session.commit()
        triage_in_steps(database, model, settings, now)
        row = build_dataset(database, settings, model, new_id(now), guards_off, now)
    emit(row.manifest, as_json, lambda: f"Dataset {row.id}: {row.note}.")


@data.group(short_help="the golden set: draw, list, confirm")
def golden() -> None:
    """Live prompts, drawn at random, whose right answers people confirm. They decide every promotion."""


@golden.command(short_help="draw cases for a person to answer")
@click.option("--model", required=True)
@click.option("--count", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@settings_option
def draw(settings: Settings, model: str, count: int, as_json: bool) -> None:
    """Draw prompts of live traffic, blind to how they were answered and rated.

    Example: starloop data golden draw --model assistant --count 200
    """
    with opened(settings, existing=True) as database, database.session() as session:
        check_known(session, settings, model)
        seed, now = secrets.randbits(32), datetime.now(UTC)
        rows = draw_cases(session, model, count, settings, seed, now)
        note(session, person(), "case.draw", model, now, asked=count, drawn=len(rows), seed=seed)
        session.commit()
    emit(
        {"items": [row.model_dump() for row in rows], "next_cursor": None},
        as_json,
        lambda: _drawn(rows, count),
    )


@golden.command("list", short_help="cases, newest first")
@click.option("--model")
@click.option(
    "--suite",
    type=click.Choice(["golden", "regression"]),
    default="golden",
    show_default=True,
    help="regression: base examples, imports, and answers that users praised.",
)
@click.option("--state", type=click.Choice(["drawn", "confirmed", "lapsed", "dropped"]))
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--cursor", help="next_cursor of the page before.")
@json_option
@settings_option
def list_golden(
    settings: Settings,
    model: str | None,
    suite: str,
    state: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """The golden set, or the regression suite, which protects what the model can do.

    Example: starloop data golden list --model assistant --state drawn
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        check_known(session, settings, model)
        page = list_cases(session, model, suite, state, limit, cursor)
    items = [row.model_dump() for row in page.items]
    emit({"items": items, "next_cursor": page.next_cursor}, as_json, lambda: _cases(page.items))


@golden.command(short_help="give a case its right answer")
@click.argument("case_id", metavar="ID")
@click.option("--answer", help="Without it, the answer that the case has stays.")
@click.option(
    "--critical/--not-critical",
    default=None,
    help="Whether a version that loses this golden case is rejected, whatever else it gains.",
)
@click.option("--by", default=getpass.getuser, show_default="you", help="Who answers for it.")
@json_option
@settings_option
def confirm(
    settings: Settings, case_id: str, answer: str | None, critical: bool | None, by: str, as_json: bool
) -> None:
    """Confirm a drawn case, or mark a confirmed one as critical.

    Example: starloop data golden confirm ID --answer '{"intent": "refund", "urgency": "low"}' --critical
    """
    with opened(settings, existing=True) as database, database.session() as session:
        case = session.get(Case, case_id)
        configured = settings.model_named(case.model) if case else None
        contract = TaskContract.from_settings(configured) if configured else TaskContract(None)
        now = datetime.now(UTC)
        row = confirm_case(session, case_id, answer, by, now, contract, critical)
        note(session, person(), "case.confirm", row.id, now, model=row.model, by=by, critical=row.critical)
        session.commit()
    emit(
        row.model_dump(),
        as_json,
        lambda: f"Case {row.id} is confirmed{' and critical' if row.critical else ''}.",
    )


@golden.command(short_help="take a case out of its suite")
@click.argument("case_id", metavar="ID")
@json_option
@settings_option
def drop(settings: Settings, case_id: str, as_json: bool) -> None:
    """Drop a case of any suite for good: it cannot be judged, or a dataset holds what is nearly the same.

    Example: starloop data golden drop ID
    """
    with opened(settings, existing=True) as database, database.session() as session:
        row = drop_case(session, case_id)
        note(session, person(), "case.drop", row.id, datetime.now(UTC), model=row.model)
        session.commit()
    emit(row.model_dump(), as_json, lambda: f"Case {row.id} is dropped.")


def _dataset(database: Database, dataset_id: str) -> DatasetVersion:
    with database.reading() as session:
        row = session.get(DatasetVersion, dataset_id)
    if row is None:
        raise NotFoundError(f"there is no dataset {dataset_id[:60]!r}; `starloop data list` shows them")
    return row


def _drawn(rows: list[Case], count: int) -> str:
    told = f"{len(rows)} of {count} cases drawn"
    if len(rows) < count:
        told += "; no other live prompt on the evaluation side is left ([dataset] evaluation_share): draw again later"
    return "\n".join([*([_cases(rows)] if rows else []), told])


def _cases(rows: list[Case]) -> str:
    """A case a block, its messages whole: whoever is to answer has to read them."""
    lines = []
    for row in rows:
        marks = [f"praised of {row.version}"] if row.version else []
        marks += ["critical"] if row.critical else []
        lines += ["  ".join((row.id, row.state, row.model, *marks)), *conversation(row.messages)]
        lines += part("tools it may call", json.dumps(row.tools, ensure_ascii=False)) if row.tools else []
        lines += part("right answer", row.answer) if row.answer is not None else []
    return "\n".join(lines) or "there are no such cases"
