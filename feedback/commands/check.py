"""`starloop data check`: a file looked at before it is taken in or trained on."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from feedback.checks.check import Report, check_file
from feedback.checks.told import told
from feedback.commands.imports import bad_lines, file_argument, format_option, map_option, split_option
from feedback.commands.options import compact_table, emit, json_option, settings_option
from feedback.commands.text import shortened
from feedback.errors import NotFoundError
from feedback.imports.reading import Reading
from feedback.imports.rows import BadRow
from feedback.settings import Settings


@click.command(short_help="look at a file before training on it; ends with 1 where it must not be")
@file_argument
@click.option("--model", help="For its task contract, tokenizer and size; without it, neither is looked at.")
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Rows of FILE that are not to be seen here: the other side of a split.",
)
@format_option
@map_option
@split_option
@json_option
@settings_option
def check(
    settings: Settings,
    file: Path,
    model: str | None,
    against: Path | None,
    format_: str | None,
    columns: dict[str, str],
    split: str,
    as_json: bool,
) -> None:
    """Count, structure, form, duplicates, conflicts, balance, lengths, tokens, personal data, languages, time and cost.
    Reads what `data import` reads, and writes nothing. Exit status 1 on too few rows or bad ones.

    Example: starloop data check rows.jsonl --model assistant
    """
    configured = settings.model_named(model) if model else None
    if model and configured is None:
        raise NotFoundError(f"there is no [[model]] named {model[:60]!r} in the configuration")
    report = check_file(file, Reading(format_ or "", columns, split), settings, configured, against)
    emit(report, as_json, lambda: _table(report))
    if report.verdict == "refuse" or report.bad_rows:
        raise click.exceptions.Exit(1)


def _table(report: Report) -> Table:
    table = compact_table(f"{report.file}: {report.verdict}")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    (rows, *found), bad = told(report), [BadRow(**row) for row in report.bad]
    found = [rows, *(("bad row", line) for line in bad_lines(report.file, bad, report.bad_rows)), *found]
    for name, text in found:
        table.add_row(name, Text(shortened(text, 2000)))
    return table
