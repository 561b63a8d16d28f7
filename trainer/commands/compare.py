"""`starloop compare`: the gate's statistics on anyone's paired results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from feedback.commands.options import emit, json_option, settings_option
from feedback.settings import Promotion, Settings
from trainer.case_file import read_outcomes
from trainer.comparison import Comparison, Outcome, slices
from trainer.findings import Finding, critical_finding, golden_finding, regression_finding
from trainer.gate import reasons, settle

_REGRESSION = "regression"
_SHOWN = ("n", "fixes", "regressions", "p_value", "difference", "interval")


@click.command(name="compare")
@click.argument("cases", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@settings_option
def compare(cases: Path, as_json: bool, settings: Settings) -> None:
    """Judge a challenger against a champion on paired results, as the gate does.

    CASES is a JSONL file with one case a line:

    \b
      {"id": "17", "champion": {"passed": false}, "challenger": {"passed": true}}
      {"id": "18", "champion": {"passed": true}, "challenger": {"passed": true}, "slice": "refunds", "critical": true}

    Instead of "passed", all lines can have "score" with a number; `[promotion] margin` is then in the scores' own unit.
    "slice" and "critical" may be left out; what else a line has is passed over.
    The cases are taken as the golden set, except those whose slice is "regression". The exit status is 0 only when
    the decision is promoted.

    \b
    Example: starloop compare results.jsonl --json
    """
    outcomes = read_outcomes(cases)
    judged = judge(outcomes, settings.promotion)
    emit(judged, as_json, lambda: _text(judged, Comparison.of(outcomes).scored))
    sys.exit(0 if judged["decision"] == "promoted" else 1)


def judge(outcomes: Sequence[Outcome], limits: Promotion) -> dict[str, Any]:
    """The report in the contract's shape; the numbers at the top are the golden cases'."""
    parts = slices(outcomes)
    golden = [outcome for outcome in outcomes if outcome.slice != _REGRESSION]
    protecting = Comparison.of(parts[_REGRESSION]) if _REGRESSION in parts else None
    compared = Comparison.of(golden)
    findings = [
        golden_finding(compared),
        regression_finding(protecting, limits.margin) if protecting else _unprotected(),
        critical_finding(outcomes),
    ]
    report = _shape(compared, findings)
    for name, part in parts.items():
        if name == _REGRESSION and protecting is not None:
            one, first = protecting, findings[1]
        else:
            one = Comparison.of(part)
            first = golden_finding(one, f"slice {name}")
        report["slices"][name] = _shape(one, [first, critical_finding(part)])
    return report


def _unprotected() -> Finding:
    text = f"regression suite: no case has the slice {_REGRESSION!r}, so nothing here watches over what the champion can do"
    return Finding("regression suite", "note", text)


def _shape(compared: Comparison, findings: Sequence[Finding]) -> dict[str, Any]:
    numbers = msgspec.to_builtins(compared)
    decision = settle(findings)
    return {
        **{key: numbers[key] for key in _SHOWN},
        "interval": numbers["interval"] or (None, None),  # both ends are unknown
        "decision": decision,
        "reasons": reasons(findings, decision),
        "slices": {},
    }


def _text(judged: dict[str, Any], scored: bool) -> str:
    lines = [judged["decision"], *(f"  {reason}" for reason in judged["reasons"])]
    p = judged["p_value"]
    lines.append(
        f"  {'sign test' if scored else 'exact McNemar'}: p {'< 0.0001' if p < 0.0001 else f'= {p:.4f}'}"
    )
    for name, part in judged["slices"].items():
        lines.append(f"slice {name}: {part['decision']}")
        lines.extend(f"  {reason}" for reason in part["reasons"])
    return "\n".join(lines)
