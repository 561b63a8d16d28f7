"""What a check found, in words: the same at the terminal and on a page."""

from __future__ import annotations

from typing import Any

from feedback.checks.check import Report

_NAMED = 8


def told(report: Report) -> list[tuple[str, str]]:
    """Name and finding of each point of the checklist, then the warnings."""
    found = [
        ("rows", f"{report.rows} ({report.format or 'of no known format'}), {report.bad_rows} bad"),
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
        found.insert(4, ("leaking", f"{report.leaking} rows are near those of the other side"))
    return [*found, *(("warning", line) for line in report.warnings)]


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
