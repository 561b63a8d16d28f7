"""`starloop evaluate`: versions on the suites, through the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from feedback.commands.options import emit, json_option, settings_option
from feedback.errors import BadInputError
from feedback.settings import Settings


@click.command(short_help="versions on the suites, through the server")
@click.option("--model", required=True, help="Whose versions.")
@click.option("--versions", required=True, help="Numbers with commas between; `base` is the base itself.")
@json_option
@settings_option
def evaluate(model: str, versions: str, as_json: bool, settings: Settings) -> None:
    """Let versions answer the golden set, the regression suite and the failure hold-out, and compare them.

    Each version is compared with the first. Answers that are known already are not asked again. Nothing is decided and
    no look at a suite is counted: that is the gate's.

    Example: starloop evaluate --model assistant --versions base,1.0,1.1
    """
    from feedback.datasets.contract import TaskContract
    from feedback.registry.versions import get_version
    from trainer.comparison import Comparison
    from trainer.evaluation import pinned
    from trainer.metrics import Metrics
    from trainer.opening import open_workshop
    from trainer.scoring import outcomes
    from trainer.suites import collect

    numbers = list(dict.fromkeys(number.strip() for number in versions.split(",") if number.strip()))
    if not numbers:
        raise BadInputError("--versions: name at least one version, such as base,1.0")
    with open_workshop(settings) as workshop:
        configured = workshop.model(model)
        with workshop.database.reading() as session:
            for number in numbers:
                if number != "base":
                    get_version(session, model, number)
            suites = collect(session, model, workshop.settings)
        if not suites.every():
            raise BadInputError(
                f"{model} has no cases to be judged on; draw golden cases and confirm them (`starloop data golden draw`)"
            )
        evaluation = workshop.evaluation()
        answers = {
            number: evaluation.answers(
                pinned(workshop.settings, configured, number), suites.every(), lambda: None
            )
            for number in numbers
        }
    contract, first = TaskContract.from_settings(configured), answers[numbers[0]]
    report = []
    for number, given in answers.items():
        shown: dict[str, Any] = {}
        for suite, cases in suites.named().items():
            shown[suite] = msgspec.to_builtins(Metrics.of(cases, given, contract))
            if number != numbers[0]:
                compared = Comparison.of(outcomes(cases, first, given))
                shown[suite]["against"] = {"version": numbers[0], **msgspec.to_builtins(compared)}
        report.append({"version": number, "suites": shown})
    emit({"model": model, "versions": report}, as_json, lambda: _text(report))


def _text(report: Sequence[Mapping[str, Any]]) -> str:
    """Plain columns: cells that a narrow terminal breaks up cannot be compared."""
    rows = [("version", "suite", "cases", "right", "valid", "ms/request", "points against the first (95 %)")]
    for version in report:
        for suite, figures in version["suites"].items():
            cells = (version["version"], suite, str(figures["n"]))
            shares = (_percent(figures["accuracy"]), _percent(figures["valid_format"]))
            spent = "-" if figures["ms_per_request"] is None else f"{figures['ms_per_request']:.0f}"
            rows.append((*cells, *shares, spent, _against(figures.get("against"))))
            rows += [
                (
                    version["version"],
                    f"{suite}, {name}",
                    str(part["n"]),
                    _percent(part["accuracy"]),
                    "-",
                    "-",
                    "-",
                )
                for kind in ("slices", "facets")
                for name, part in figures[kind].items()
            ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _against(compared: Mapping[str, Any] | None) -> str:
    if compared is None or not compared["n"]:
        return "-"
    low, high = (100 * bound for bound in compared["interval"])
    return f"{100 * compared['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
