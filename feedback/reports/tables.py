"""What a report says, as headings, paragraphs and tables of text: Markdown and HTML both show this. Pure."""

from __future__ import annotations

from typing import NamedTuple

from feedback.reports.document import MoveRow, Report
from feedback.reports.traffic import Looked, Stars, Volume

_BY_TEXT = frozenset({"empty", "schema_invalid", "truncated", "refusal", "repetition"})
"""Reasons that triage finds by an answer's text."""


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[str]]
    plain: int = 1
    """Columns from the left that are words; the others are numbers."""


class Section(NamedTuple):
    """One question that the report answers."""

    title: str
    plot: str
    """`answers`, `latency` or `stars`: what a form that can draw shows here; empty for none."""
    parts: list[str | Table]


def sections(report: Report) -> list[Section]:
    """The whole report."""
    return [
        Section("Were the goals met?", "", [_goals(report)]),
        Section("What to do next", "", list(report.next_steps)),
        Section("Are users rating highly?", "stars", _ratings(report)),
        Section("Which inputs fail?", "", _failures(report)),
        Section("Is latency acceptable?", "latency", _latency(report)),
        Section("Are costs as expected?", "answers", _costs(report)),
        Section("What changed?", "", _changes(report)),
    ]


def opening(report: Report) -> str:
    """Under the title."""
    part = "" if report.complete else ", the month so far"
    return f"{report.volume.answers:,} answers, {report.stars.ratings:,} ratings{part}. Made {report.made}."


def _goals(report: Report) -> Table:
    signs = {"met": "✓ met", "not met": "✗ not met", "unknown": "? cannot be told"}
    return Table(
        ["goal", "wanted", "state", "found"],
        [[one.name, one.wanted, signs[one.state], one.found] for one in report.criteria],
        4,
    )


def _ratings(report: Report) -> list[str | Table]:
    if not report.stars.ratings:
        return ["Nobody rated an answer."]
    rows = [["all", *_stars(report.stars)]]
    rows += [[f"{report.model}@{row.version}", *_stars(row.stars)] for row in report.versions]
    return [
        Table(["version", "stars", "95 %", "raters", "ratings", "rated answers"], rows),
        "Each rater counts once, with the mean of what they gave. Who rates is not random: compare versions only where about "
        "the same share of answers is rated.",
    ]


def _failures(report: Report) -> list[str | Table]:
    if report.looked_until is None:
        return ["Triage has not looked at this month yet; a cycle begins with it: starloop cycle run."]
    if not report.reasons:
        found = f"; a reviewer found all {report.cleared:,} to be none" if report.cleared else ""
        return [f"No answer until {report.looked_until} stands as a failure{found}."]
    rows = [_reason(report.looked, name, count) for name, count in report.reasons.items()]
    parts: list[str | Table] = [Table(["reason", "failures", "of", "share"], rows)]
    if report.cleared:
        parts.append(f"Not among them: {report.cleared:,} that a reviewer found to be none.")
    if report.kinds:
        parts.append("Fail more often than the rest:")
        parts.append(
            Table(
                ["inputs with", "example", "failed", "of them", "elsewhere"],
                [
                    [
                        ", ".join([*(f"“{phrase}”" for phrase in kind.phrases[:4]), *kind.metadata[:3]]),
                        kind.examples[0].prompt if kind.examples else "",
                        f"{kind.failures:,} of {kind.prompts:,}",
                        percent(kind.share),
                        percent(kind.elsewhere),
                    ]
                    for kind in report.kinds[:8]
                ],
                2,
            )
        )
    else:
        parts.append("No kind of input fails more often than the rest.")
    if report.kinds_found:
        parts.append(
            f"So it was found after the month, {report.kinds_found}; `starloop failures kinds` tells it as it is now."
        )
    parts.append(
        f"{report.waiting:,} failures wait for a right answer. Triage has looked at what was answered until "
        f"{report.looked_until}."
    )
    return parts


def _reason(looked: Looked, name: str, count: int) -> list[str]:
    """A row; the share is of what can fail for the reason."""
    if name == "error":
        all_, what = looked.requests, "requests"
    elif name in _BY_TEXT:
        all_, what = looked.texts, "answers with text"
    else:
        all_, what = looked.answers, "answers"
    share = percent(min(count / all_, 1.0)) if all_ else "–"
    return [name.replace("_", " "), f"{count:,}", f"{all_:,} {what}", share]


def _latency(report: Report) -> list[str | Table]:
    if not report.volume.answers:
        return ["Nothing was answered."]
    rows = [["all", *_speed(report.volume)]]
    rows += [[f"{report.model}@{row.version}", *_speed(row.volume)] for row in report.versions]
    columns = ["version", "answers", "errors", "p50", "p95", "first token p50", "first token p95"]
    told = f"Half of the answers came within {_ms(report.volume.p50_ms)}, 95 % within {_ms(report.volume.p95_ms)}"
    if report.before.answers:
        told += f"; in the month before within {_ms(report.before.p50_ms)} and {_ms(report.before.p95_ms)}"
    return [
        f"{told}. No goal is set for this; the gate compares what a token takes.",
        Table(columns, rows),
    ]


def _elsewhere(report: Report) -> list[str | Table]:
    """Models elsewhere that were asked the golden set too."""
    found = report.improvement
    rows = [
        [
            f"{one['name']} ({one['model']})",
            f"{percent(one['accuracy'])} of {one['cases']}",
            "–" if one["per_thousand"] is None else f"{one['per_thousand']:,.4g}",
        ]
        for one in found.get("contenders") or ()
    ]
    if not rows:
        return []
    ours = report.costs.per_thousand_answers
    mine = [f"{report.model}@{found['version']}", f"{percent(found['champion'])} of {found['cases']}"]
    rows.insert(0, [*mine, "–" if ours is None else f"{ours:,.4g}"])
    return ["Beside models elsewhere:", Table(["", "golden cases right", "a thousand answers cost"], rows)]


def _judged(report: Report) -> list[str | Table]:
    """What a judge said of the month's challengers, and what that cost."""
    if not report.judged:
        return []
    rows = []
    for one in report.judged:
        low, high = (100 * bound for bound in one.interval)
        agreement = "–" if one.agreement is None else f"{percent(one.agreement)} of {one.known}"
        rows.append(
            [
                f"{report.model}@{one.version} beside {one.against}, by {one.judge}",
                f"{one.wins} of {one.cases}",
                f"{one.losses}",
                f"{low:+.1f} to {high:+.1f}",
                f"{agreement}; {'counts' if one.counts else 'does not count'}",
                "–" if one.tokens is None else f"{one.tokens:,}",
                "–" if one.cost is None else f"{one.cost:,.4g}",
            ]
        )
    columns = ["", "preferred", "other preferred", "points, 95 %", "agreement with people", "tokens", "cost"]
    return ["What the judge said of golden cases; its word alone promotes nothing:", Table(columns, rows)]


def _costs(report: Report) -> list[str | Table]:
    costs, volume = report.costs, report.volume
    parts: list[str | Table] = [
        f"{volume.prompt_tokens:,} tokens read, {volume.completion_tokens:,} written; "
        f"{costs.training_seconds / 3600:.2f} hours of training."
    ]
    if costs.total is None:
        parts.append(
            "Prices are not set: [[engine]] price_per_hour and [training] price_per_hour make costs of these hours."
        )
        return [*parts, *_elsewhere(report)]
    if costs.serving is not None:
        shared = (
            f": an even part of what the engine costs, which serves {costs.sharing} models"
            if costs.sharing > 1
            else ""
        )
        parts.append(f"Serving counts from the model's registration on{shared}.")
    rows = [
        [name, f"{value:,.2f}"]
        for name, value in (
            ("serving", costs.serving),
            ("training", costs.training),
            ("together", costs.total),
        )
        if value is not None
    ]
    if costs.per_thousand_answers is not None:
        rows.append(["for a thousand answers", f"{costs.per_thousand_answers:,.4f}"])
    return [*parts, Table(["", "cost"], rows), *_elsewhere(report)]


def _changes(report: Report) -> list[str | Table]:
    parts: list[str | Table] = []
    for move in report.moves:
        parts.append(
            f"{move.at}: {move.kind} from {report.model}@{move.from_version} to {report.model}@{move.to_version}, decided by "
            f"{move.decided_by}: {move.reason}"
        )
        if move.fixes is not None and move.difference is not None and move.interval is not None:
            low, high = move.interval
            parts.append(
                f"Golden set: {move.fixes} cases fixed, {move.regressions} broken; {100 * move.difference:+.1f} points "
                f"(95 %: {100 * low:+.1f} to {100 * high:+.1f})."
            )
        rows = _examples(move)
        if rows:
            parts.append(Table(["", "prompt", "right", "before", "after"], rows, 5))
    if not report.moves:
        parts.append("The champion did not change.")
    if report.cycles:
        parts.append(
            Table(
                ["cycle", "began", "outcome", "version", "why"],
                [[one.id, one.at, one.outcome, one.version or "", one.reason] for one in report.cycles],
                5,
            )
        )
    return [*parts, *_judged(report)]


def _examples(move: MoveRow) -> list[list[str]]:
    return [
        [what, one.prompt, one.expected, one.before, one.after]
        for what, some in (("fixed", move.fixed), ("broken", move.broken))
        for one in some
    ]


def _stars(stars: Stars) -> list[str]:
    mean = "–" if stars.mean is None else f"{stars.mean:.2f}"
    between = "–" if stars.interval is None else f"{stars.interval[0]:.2f} to {stars.interval[1]:.2f}"
    share = "–" if stars.rated_share is None else percent(stars.rated_share)
    return [mean, between, f"{stars.raters:,}", f"{stars.ratings:,}", share]


def _speed(volume: Volume) -> list[str]:
    times = (volume.p50_ms, volume.p95_ms, volume.first_token_p50_ms, volume.first_token_p95_ms)
    return [
        f"{volume.answers:,}",
        f"{volume.errors:,}",
        *map(_ms, times),
    ]


def _ms(time: float | None) -> str:
    return "–" if time is None else f"{time:,.0f} ms"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
