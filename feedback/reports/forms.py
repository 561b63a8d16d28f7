"""A report as Markdown or as one HTML page that needs nothing else. What users wrote is shown as text, whatever it holds."""

from __future__ import annotations

import re
from html import escape

from feedback.commands.text import harmless
from feedback.reports.document import Report
from feedback.reports.plots import bars, line
from feedback.reports.tables import Section, Table, opening, sections

_SHORT = 40
"""Characters of the longest cell in a column whose lines are not broken; an id has 36."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!])")
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f24; --dim: #5c6370; --line: #d9dce3; --back: #fff; --mark: #2f6fde; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --dim: #a0a7b4; --line: #3a3f4a; --back: #16181d; --mark: #7aa7ff; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; min-width: 50%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } .number { text-align: right; } .scroll svg { min-width: 28rem; }
td.prose { white-space: normal; min-width: 14rem; max-width: 34rem; overflow-wrap: break-word; }
h1, p { overflow-wrap: anywhere; } p { max-width: 46rem; } p.opening { color: var(--dim); } svg { width: 100%; max-width: 640px; display: block; margin: .5rem 0; }
svg text { font-size: 11px; fill: var(--dim); } .grid { stroke: var(--line); } .bar { fill: var(--mark); }
.band { fill: var(--mark); opacity: .25; }
.line { stroke: var(--mark); fill: none; stroke-width: 2; } .dot { fill: var(--mark); }
@media print { body { margin: 0; max-width: none; } h2, table, svg { break-inside: avoid; } }
"""


def title(report: Report) -> str:
    return f"{report.model} in {report.month}"


def markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {plain(title(report))}", "", plain(opening(report)), ""]
    for section in sections(report):
        lines += [f"## {section.title}", ""]
        for part in section.parts:
            lines += [*(_markdown_table(part) if isinstance(part, Table) else [plain(part)]), ""]
    return "\n".join(lines)


def html(report: Report) -> str:
    """The report as a page of its own, without scripts and without anything from another host."""
    head = f"{escape(title(report))}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{head}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{fragment(report)}\n</body>\n</html>\n"
    )


def fragment(report: Report) -> str:
    """What stands in the page's body."""
    return "\n".join(
        [
            f"<h1>{escape(title(report))}</h1>",
            f'<p class="opening">{escape(opening(report))}</p>',
            *(_html_section(report, section) for section in sections(report)),
        ]
    )


def _html_section(report: Report, section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>", _plot(report, section.plot)]
    parts += [
        _html_table(part) if isinstance(part, Table) else f"<p>{escape(part)}</p>" for part in section.parts
    ]
    return "\n".join([*filter(None, parts), "</section>"])


def _plot(report: Report, which: str) -> str:
    labels = [day.day for day in report.days]
    if which == "answers" and any(day.answers for day in report.days):
        drawn = bars("Answers a day", labels, [day.answers for day in report.days])
        return f'<div class="scroll">{drawn}</div><p>Answers a day, in UTC as the month is.</p>'
    if which == "latency" and any(day.p95_ms for day in report.days):
        slowest = [day.p95_ms or 0.0 for day in report.days]
        drawn = bars("Milliseconds within which 95 % of a day's answers came", labels, slowest)
        told = "Milliseconds within which 95 % of a day's answers came; days are those of UTC."
        return f'<div class="scroll">{drawn}</div><p>{told}</p>'
    if which == "stars" and any(day.mean is not None for day in report.days):
        means, bands = [day.mean for day in report.days], [day.interval for day in report.days]
        drawn = line("Mean stars a day, with their 95 % intervals", labels, means, 1, 5, bands)
        told = "Mean stars a day, with their 95 % intervals; days are those of UTC, as the month is."
        return f'<div class="scroll">{drawn}</div><p>{told}</p>'
    return ""


def _html_table(table: Table) -> str:
    kinds = [
        "number"
        if place >= table.plain
        else "prose"
        if any(len(row[place]) > _SHORT for row in table.rows)
        else "short"
        for place in range(len(table.columns))
    ]

    def cells(tag: str, values: list[str]) -> str:
        return "".join(
            f'<{tag} class="{kind}">{escape(value)}</{tag}>'
            for kind, value in zip(kinds, values, strict=True)
        )

    head = cells("th", table.columns)
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _markdown_table(table: Table) -> list[str]:
    rule = ["---" if place < table.plain else "--:" for place in range(len(table.columns))]
    return [
        f"| {' | '.join(cells)} |"
        for cells in (table.columns, rule, *([plain(cell) for cell in row] for row in table.rows))
    ]


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", " ".join(harmless(text).split()))
