"""A cycle's figures side by side: base, champion, challenger, what the challenger gained, with its interval, and models elsewhere.

It reads what the cycle's steps wrote down: the interval of right answers is the gate's, the others come from the evaluation.
Where a figure has no value for a single case, as BLEU has none, there is no interval. Slices have none either: the gate weighs
them together, as of many some seem harmed by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from feedback.paired import tango_interval

_SUITES = ("golden", "regression", "holdout")
_METRICS = {"accuracy": "right", "valid_format": "in valid form", "macro_f1": "macro F1"}
_WORDING = {
    "similarity": "similarity",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
}
_NONE = "–"


class Figure(Struct, frozen=True):
    """One row. Shares are 0..1; an improvement is challenger minus champion, of a `ratio` challenger over champion."""

    suite: str | None
    metric: str
    cases: int | None
    unit: Literal["share", "ms", "ratio", "price"]
    values: dict[str, float | None]
    """By version, then by contender; of a `ratio` in milliseconds."""
    improvement: float | None = None
    interval: tuple[float, float] | None = None
    """At 95 %."""
    partly: dict[str, int] = {}
    """Of how many cases, for who answered fewer."""
    remark: str = ""
    part: str = ""
    """The slice, metadata or reason of failures that it is about; empty where about all."""

    @property
    def name(self) -> str:
        """What stands before the row."""
        where = f"{self.suite}: " if self.suite else ""
        return where + self.metric + (f", of {self.cases}" if self.cases else "") + self.remark

    def cell(self, version: str) -> str:
        """A version's or contender's figure."""
        value = self.values.get(version)
        if value is None:
            return _NONE
        if self.unit == "share":
            part = self.partly.get(version)
            return f"{100 * value:.1f} %" + (f" of {part}" if part else "")
        return f"{value:,.4g}" if self.unit == "price" else f"{value:,.{0 if self.unit == 'ms' else 2}f} ms"

    @property
    def gain(self) -> str:
        """The improvement."""
        if self.improvement is None:
            return _NONE
        if self.unit == "share":
            return f"{100 * self.improvement:+.1f} points"
        return f"{self.improvement:+,.0f} ms" if self.unit == "ms" else f"{self.improvement:.2f} times"

    @property
    def span(self) -> str:
        """The interval."""
        if self.interval is None:
            return _NONE
        low, high = self.interval
        return (
            f"{100 * low:+.1f} to {100 * high:+.1f}" if self.unit == "share" else f"{low:.2f} to {high:.2f}"
        )


class FigureTable(NamedTuple):
    """The rows as text: a cell for what it is, one for each version, improvement and interval, and one for each contender."""

    heads: list[str]
    rows: list[list[str]]


def figures_of(result: Mapping[str, Any], challenger: str | None, parts: bool = True) -> list[Figure]:
    """What the cycle's `result` tells of its versions; nothing before its evaluation. `parts`: also by slice and metadata."""
    return [row for row in _figures(result, challenger) if parts or not row.part]


def figure_table(result: Mapping[str, Any], challenger: str | None, parts: bool = True) -> FigureTable:
    """`figures_of` as a table for people."""
    versions, contenders = list(result.get("versions") or {}), list(result.get("contenders") or {})
    roles = {result.get("champion"): " (champion)", challenger: " (new)"}
    named = [name + roles.get(name, "") for name in versions]
    rows = [
        [row.name, *map(row.cell, versions), row.gain, row.span, *map(row.cell, contenders)]
        for row in figures_of(result, challenger, parts)
    ]
    return FigureTable(["figure", *named, "improvement", "95 %", *contenders], rows)


def figure_records(result: Mapping[str, Any], challenger: str | None) -> list[dict[str, Any]]:
    """`figures_of` as JSON, one object a figure, with base, champion and challenger by these names."""
    parts = {"base": "base", "champion": result.get("champion"), "challenger": challenger}
    return [
        {"suite": row.suite, "metric": row.metric, "cases": row.cases, "unit": row.unit}
        | {part: row.values.get(name or "") for part, name in parts.items()}
        | {"improvement": row.improvement, "interval": row.interval}
        for row in figures_of(result, challenger)
    ]


def _figures(result: Mapping[str, Any], challenger: str | None) -> Iterator[Figure]:
    champion, contenders = result.get("champion"), result.get("contenders") or {}
    found = (result.get("versions") or {}) | {name: one["suites"] for name, one in contenders.items()}
    both = (champion, challenger)
    gate = (result.get("gate") or {}).get("suites") or {}
    for suite in _SUITES:
        metrics = {name: suites.get(suite) or {} for name, suites in found.items()}
        if any(one.get("n") for one in metrics.values()):
            paired = {"accuracy": gate.get(suite)} | ((result.get("improvements") or {}).get(suite) or {})
            yield from _suite(suite, metrics, paired, result.get("consistency") or {}, both)
    speeds = {name: (suites.get("golden") or {}).get("ms_per_request") for name, suites in found.items()}
    if any(speed is not None for speed in speeds.values()):
        yield Figure(None, "a request, median", None, "ms", speeds, _gained(speeds, both))
    if latency := result.get("latency"):
        tokens: dict[str, float | None] = {
            champion or "": latency["champion"],
            challenger or "": latency["challenger"],
        }
        ratio, interval = latency["ratio"], _pair(latency["interval"])
        yield Figure(None, "a token, measured in turns", None, "ratio", tokens, ratio, interval)
    if contenders:
        prices = {name: one["per_thousand"] for name, one in contenders.items()}
        yield Figure(None, "a thousand answers cost", None, "price", prices)
    judge = result.get("judge")
    if judge and judge["cases"]:
        yield _preferred(judge, champion, challenger)


def _suite(
    suite: str,
    metrics: Mapping[str, Mapping[str, Any]],
    paired: Mapping[str, Mapping[str, Any] | None],
    consistency: Mapping[str, float | None],
    both: tuple[str | None, str | None],
) -> Iterator[Figure]:
    """Rows of one suite: the versions' figures over all of it, then by slice, metadata and reason of failures."""
    count = max(one.get("n", 0) for one in metrics.values())
    partly = {name: one["n"] for name, one in metrics.items() if one.get("n", 0) not in (0, count)}
    every = {
        metric: (told, {name: one.get(metric) for name, one in metrics.items()})
        for metric, told in _METRICS.items()
    }
    every |= {
        metric: (told, {name: (one.get("wording") or {}).get(metric) for name, one in metrics.items()})
        for metric, told in _WORDING.items()
    }
    if suite == "golden":
        every["consistency"] = ("consistency", dict(consistency))
    for metric, (told, values) in every.items():
        if metric != "accuracy" and all(value is None for value in values.values()):
            continue
        compared = paired.get(metric)
        yield Figure(
            suite,
            told,
            count if metric == "accuracy" else None,
            "share",
            values,
            compared["difference"] if compared else _gained(values, both),
            _pair(compared["interval"]) if compared else None,
            partly if metric == "accuracy" else {},
        )
    for kind in ("slices", "facets"):
        found = {name: one.get(kind) or {} for name, one in metrics.items()}
        for part in sorted({part for parts in found.values() for part in parts}):
            values = {name: parts[part]["accuracy"] for name, parts in found.items() if part in parts}
            cases = max(parts[part]["n"] for parts in found.values() if part in parts)
            gained = _gained(values, both)
            yield Figure(f"{suite}, {part}", "right", cases, "share", values, gained, part=part)


def _preferred(judge: Mapping[str, Any], champion: str | None, challenger: str | None) -> Figure:
    """With how far the judge can be believed."""
    cases, wins, losses, agreement = judge["cases"], judge["wins"], judge["losses"], judge["agreement"]
    told = "not known" if agreement is None else f"{100 * agreement:.1f} % of {judge['known']}"
    counts = "counts" if judge["counts"] else "does not count"
    return Figure(
        "golden",
        "preferred by the judge",
        cases,
        "share",
        {champion or "": losses / cases, challenger or "": wins / cases},
        (wins - losses) / cases,
        tango_interval(wins, losses, cases),
        remark=f" (agreement with people {told}; {counts})",
    )


def _gained(values: Mapping[str, float | None], both: tuple[str | None, str | None]) -> float | None:
    ours, theirs = (values.get(name or "") for name in both)
    return None if ours is None or theirs is None else theirs - ours


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    """Null where the figure was of a single case."""
    if interval is None:
        return None
    low, high = interval
    return low, high
