"""`starloop data import`, `imports`: files of training rows taken in for a model."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from feedback.commands.options import emit, json_option, listing, person, settings_option
from feedback.commands.text import harmless
from feedback.datasets.imported import intact
from feedback.errors import BadFieldError
from feedback.imports.reading import FORMATS, Reading
from feedback.imports.rows import BadRow
from feedback.imports.shapes import MAPPED, columns_of
from feedback.imports.storing import USES, Intake, Outcome, import_file, list_imports, shown_name
from feedback.registry.models import check_known, ensure_models
from feedback.settings import Settings
from feedback.storage.database import opened
from feedback.storage.tables import DataImport

_SHOWN = 20

file_argument = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="How rows are written, or the file's kind; without it, both are seen from the file.",
)

split_option = click.option(
    "--split", default="", help="Of a dataset's folder; without it, train, or the only one."
)


def _columns(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """`prompt=question,answer=reply` as a mapping."""
    try:
        return columns_of(",".join(given))
    except BadFieldError as error:
        raise click.BadParameter(error.problem) from None


map_option = click.option(
    "--map",
    "columns",
    multiple=True,
    callback=_columns,
    help=f"Which columns or fields hold what, as in prompt=question,answer=reply; what: {', '.join(MAPPED)}.",
)


@click.command("import", short_help="take a file of training rows in for a model")
@file_argument
@click.option("--model", metavar="M", required=True, help="Name of the [[model]] that is to learn them.")
@format_option
@map_option
@split_option
@click.option(
    "--use",
    type=click.Choice(USES),
    default="learn",
    show_default=True,
    help="learn: new examples. replay: what the model knows already and is not to forget.",
)
@click.option("--skip-bad", is_flag=True, help="Take the good rows, leave the bad ones out.")
@json_option
@settings_option
def import_(
    settings: Settings,
    file: Path,
    model: str,
    format_: str | None,
    columns: dict[str, str],
    split: str,
    use: Any,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Take rows in: OpenAI chats, instruction/output, prompt/completion or chosen/rejected as JSONL; CSV, Parquet, Arrow;
    also packed by gzip or zstd, and folders that the datasets library saved or the Hub has (--split). All rows or none, unless --skip-bad; the file is kept as it is. The next dataset version has them.

    Example: starloop data import tickets.csv --model assistant --map prompt=text,answer=reply
    """
    now = datetime.now(UTC)
    intake = Intake(file, model, Reading(format_ or "", columns, split), use, skip_bad)
    with opened(settings) as database:
        with database.session() as session:
            ensure_models(session, settings, now)
            session.commit()
        outcome = import_file(database, settings, intake, person(), now)
    emit(_document(outcome), as_json, lambda: _told(outcome, file))
    if outcome.entry is None:
        raise click.exceptions.Exit(1)


@click.command(short_help="files that were taken in, newest first")
@click.option("--model", help="Only this model's.")
@json_option
@settings_option
def imports(settings: Settings, model: str | None, as_json: bool) -> None:
    """All imports, and whether their files are still what was taken in.

    Example: starloop data imports --model assistant
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        check_known(session, settings, model)
        rows = list_imports(session, model)
    whole = {row.id: intact(settings.directory, row) for row in rows}
    items = [row.model_dump() | {"files_intact": whole[row.id]} for row in rows]
    columns = ["id", "model", "name", "format", "use", "rows", "bad", "by", "intact"]
    cells = [
        [
            row.id,
            row.model,
            row.name,
            row.format,
            row.use,
            row.rows,
            row.bad,
            row.created_by,
            "yes" if whole[row.id] else "NO",
        ]
        for row in rows
    ]
    emit({"items": items, "next_cursor": None}, as_json, lambda: listing("imports", columns, cells))
    if not all(whole.values()):
        raise click.exceptions.Exit(1)


def bad_lines(name: str, bad: list[BadRow], count: int) -> list[str]:
    """Bad rows in words, the first of them each."""
    lines = [harmless(_bad_line(name, row)) for row in bad[:_SHOWN]]
    return [*lines, f"… and {count - _SHOWN} bad rows more"] if count > _SHOWN else lines


def _bad_line(name: str, row: BadRow) -> str:
    """Line 0 is the file as a whole, whose problem names it and its line already; a field "line" is the whole row."""
    if row.line == 0:
        return row.problem
    field = "" if row.field == "line" else f"{row.field}: "
    return f"{name}: line {row.line}: {field}{row.problem}"


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "import": _entry(outcome.entry),
        "known": outcome.known,
        "rows": outcome.rows,
        "bad_rows": outcome.bad_rows,
        "bad": [row._asdict() for row in outcome.bad],
    }


def _entry(entry: DataImport | None) -> dict[str, Any] | None:
    return None if entry is None else entry.model_dump()


def _told(outcome: Outcome, file: Path) -> str:
    name, entry = shown_name(file), outcome.entry
    lines = bad_lines(name, outcome.bad, outcome.bad_rows)
    if entry is None:
        good = f"{outcome.rows} good row{'' if outcome.rows == 1 else 's'}"
        told = f"{name}: {outcome.bad_rows} bad and {good}; nothing was imported."
        return "\n".join(
            [*lines, told + (" Mend them, or leave them out with --skip-bad." if outcome.rows else "")]
        )
    if outcome.known:
        return "\n".join(
            [
                *lines,
                f"{name}: these rows are import {entry.id} already (--use {entry.use}); nothing was imported again.",
            ]
        )
    used = (
        f"{entry.rows} rows with {entry.examples} answers to {'learn' if entry.use == 'learn' else 'replay'}"
    )
    left = f", {entry.bad} bad rows left out" if entry.bad else ""
    lines.append(f"Import {entry.id}: {used} ({entry.format}){left}.")
    return "\n".join(lines)
