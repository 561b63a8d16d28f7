"""`starloop data check`: a file looked at before it is taken in or trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from feedback.checks.check import Report, check_file
from feedback.commands.imports import bad_lines, file_argument, format_option, map_option
from feedback.commands.options import compact_table, emit, json_option, settings_option
from feedback.commands.text import shortened
from feedback.errors import NotFoundError
from feedback.imports.reading import Reading
from feedback.imports.rows import BadRow
from feedback.settings import Settings

_NAMED = 8


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
@json_option
@settings_option
def check(
    settings: Settings,
    file: Path,
    model: str | None,
    against: Path | None,
    format_: str | None,
    columns: dict[str, str],
    as_json: bool,
) -> None:
    """Count, structure, form, duplicates, conflicts, balance, lengths, tokens, personal data, languages, time and cost.
    Reads what `data import` reads, and writes nothing. Exit status 1 on too few rows or bad ones.

    Example: starloop data check rows.jsonl --model assistant
    """
    configured = settings.model_named(model) if model else None
    if model and configured is None:
        raise NotFoundError(f"there is no [[model]] named {model[:60]!r} in the configuration")
    report = check_file(file, Reading(format_ or "", columns), settings, configured, against)
    emit(report, as_json, lambda: _table(report))
    if report.verdict == "refuse" or report.bad_rows:
        raise click.exceptions.Exit(1)


def _table(report: Report) -> Table:
    table = compact_table(f"{report.file}: {report.verdict}")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    bad = bad_lines(report.file, [BadRow(**row) for row in report.bad], report.bad_rows)
    found = [
        ("rows", f"{report.rows} ({report.format or 'of no known format'}), {report.bad_rows} bad"),
        *(("bad row", line) for line in bad),
        ("distinct", f"{report.distinct}: {report.size}"),
        ("structure", _counts(report.structure) or "single questions and answers"),
        ("split", _counts(report.sides)),
        ("duplicates", f"{report.exact_duplicates} exact, {report.near_duplicates} near"),
        ("conflicts", f"{report.conflicts} prompts with different answers"),
        ("answers", _answers(report.answers)),
        ("labels", _counts(report.labels) or "none named, and answers are not few and short"),
        ("sources", _counts(report.sources) or "rows name none (field `source`): bias cannot be seen"),
        ("lengths", f"{report.outliers['count']} outliers"),
        ("tokens", _tokens(report)),
        ("personal data", _counts(report.pii_kinds) or "none found by rules (names are not looked for)"),
        ("scripts", _counts(report.scripts)),
        ("estimate", _estimate(report)),
    ]
    if report.leaking is not None:
        found.insert(5, ("leaking", f"{report.leaking} rows are near those of the other file"))
    for name, text in [*found, *(("warning", line) for line in report.warnings)]:
        table.add_row(name, Text(shortened(text, 2000)))
    return table


def _counts(counts: dict[str, int]) -> str:
    told = [f"{count} {name}" for name, count in list(counts.items())[:_NAMED]]
    more = len(counts) - _NAMED
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _answers(answers: dict[str, Any]) -> str:
    share = answers["json"] / answers["count"] if answers["count"] else 0.0
    told = f"{answers['count']}: {share:.1%} are JSON, {answers['not_json']} not"
    if answers["against_contract"] is not None:
        told += f"; {answers['against_contract']} break the task contract"
    return f"{told}; {answers['empty']} empty, {answers['cut_short']} look cut off"


def _tokens(report: Report) -> str:
    tokens = report.tokens
    if tokens is None:
        return f"not counted: {report.tokens_missing or 'there is no row'}"
    return (
        f"{tokens.total} in all; a row {tokens.median} (median), {tokens.p95} (95 %), {tokens.longest} (longest), "
        f"{tokens.over_limit} beyond [training] max_tokens"
    )


def _estimate(report: Report) -> str:
    found = report.estimate
    if found is None:
        return "none: needs the base's tokenizer and weights on this disk"
    spent = "" if found.cost is None else f", {found.cost:.2f} at [training] price_per_hour"
    minutes = found.hours * 60
    time = f"{found.hours:.1f} hours" if minutes > 90 else f"{minutes:.1f} minutes"
    return f"{time}{spent} for {found.epochs} epochs; rests on {found.rests_on}"
