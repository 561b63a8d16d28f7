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
@click.option("--contenders", help="Names of [[contender]] with commas between, or `all`: models elsewhere.")
@json_option
@settings_option
def evaluate(model: str, versions: str, contenders: str | None, as_json: bool, settings: Settings) -> None:
    """Let versions answer the golden set, the regression suite and the failure hold-out, and compare them.

    Each version is compared with the first, on cases for whose answers neither was praised, as it has those right by choice. So are
    models elsewhere that --contenders names, with what a thousand of their answers cost; they are told the form that answers
    must have. Where [judge] names one, it says which of two versions' golden
    answers it prefers. Answers and verdicts that are known already are not asked again. Nothing is decided and no look at a
    suite is counted: that is the gate's.

    Example: starloop evaluate --model assistant --versions base,1.0,1.1 --contenders all
    """
    from feedback.datasets.contract import TaskContract
    from feedback.registry.versions import get_version
    from trainer.comparison import Comparison
    from trainer.contenders import answered, contend, shown, wanted_contenders
    from trainer.evaluation import pinned
    from trainer.judge import judge_where_configured
    from trainer.judge import shown as judged_shown
    from trainer.kinds import facets_finding
    from trainer.metrics import Metrics
    from trainer.opening import open_workshop
    from trainer.scoring import outcomes
    from trainer.suites import collect, fair_to

    numbers = list(dict.fromkeys(number.strip() for number in versions.split(",") if number.strip()))
    if not numbers:
        raise BadInputError("--versions: name at least one version, such as base,1.0")
    others = wanted_contenders(settings, contenders) if contenders else []
    with open_workshop(settings, existing=True) as workshop:
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
        contended = [contend(workshop, one, configured, suites.every()) for one in others]
        verdicts = {
            number: judge_where_configured(
                workshop, suites.golden, answers[numbers[0]], answers[number], lambda: None
            )
            for number in numbers[1:]
        }
    contract, first = TaskContract.from_settings(configured), answers[numbers[0]]
    report = []
    for number, given in answers.items():
        figures: dict[str, Any] = {}
        for suite, cases in suites.named().items():
            figures[suite] = msgspec.to_builtins(Metrics.of(cases, given, contract))
            if number != numbers[0]:
                fair = fair_to((numbers[0], number), cases)
                compared = Comparison.of(outcomes(fair, first, given, contract))
                figures[suite]["against"] = {"version": numbers[0], **msgspec.to_builtins(compared)}
        one: dict[str, Any] = {"version": number, "suites": figures, "judge": None, "remarks": []}
        if number != numbers[0]:
            judged, trouble = verdicts[number]
            if judged is not None:
                one["judge"] = {**judged_shown(judged), "interval": judged.comparison.interval}
            fair = fair_to((numbers[0], number), [*suites.golden, *suites.regression])
            paired = outcomes(fair, first, given, contract)
            one["remarks"] = [*(found.text for found in facets_finding(paired)), *trouble]
        report.append(one)
    elsewhere = []
    for done in contended:
        told = shown(done, suites, contract)
        for suite, cases in suites.named().items():
            fair = fair_to((numbers[0],), answered(cases, done))
            compared = Comparison.of(outcomes(fair, first, done.answers, contract))
            told["suites"][suite]["against"] = {"version": numbers[0], **msgspec.to_builtins(compared)}
        elsewhere.append({"contender": done.name, **told})
    emit(
        {"model": model, "versions": report, "contenders": elsewhere},
        as_json,
        lambda: _text(report, elsewhere),
    )


def _text(report: Sequence[Mapping[str, Any]], elsewhere: Sequence[Mapping[str, Any]]) -> str:
    """Plain columns: cells that a narrow terminal breaks up cannot be compared."""
    head = ("version", "suite", "cases", "right", "valid", "ms/request", "points against the first (95 %)")
    rows: list[tuple[str, ...]] = [head if not elsewhere else (*head, "cost of 1,000")]
    for one in (*report, *elsewhere):
        name = one.get("version") or one["contender"]
        price = one.get("per_thousand")
        cost = [] if not elsewhere else ["-" if price is None else f"{price:.4g}"]
        for suite, figures in one["suites"].items():
            shares = (_percent(figures["accuracy"]), _percent(figures["valid_format"]))
            spent = "-" if figures["ms_per_request"] is None else f"{figures['ms_per_request']:.0f}"
            against = _against(figures.get("against"))
            rows.append((name, suite, str(figures["n"]), *shares, spent, against, *cost))
            rows += [
                (name, f"{suite}, {part}", str(found["n"]), _percent(found["accuracy"]), "-", "-", "-")
                + ("-",) * len(cost)
                for kind in ("slices", "facets")
                for part, found in figures[kind].items()
            ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for one in report:
        told = [*([_judged(one["judge"])] if one["judge"] else []), *one["remarks"]]
        lines += [f"{one['version']} beside {report[0]['version']}: {text}" for text in told]
    lines += [f"{one['contender']} stopped: {one['stopped']}" for one in elsewhere if one["stopped"]]
    return "\n".join(lines)


def _judged(judge: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in judge["interval"])
    share = "nothing to compare it with" if judge["agreement"] is None else _percent(judge["agreement"])
    stopped = f". It did not see all: {judge['stopped']}" if judge["stopped"] else ""
    return (
        f"the judge {judge['judge']} prefers it in {judge['wins']} of {judge['cases']} golden cases and the other in "
        f"{judge['losses']} (95 %: {low:+.1f} to {high:+.1f} points); agreement with people {share} of {judge['known']}, so its word "
        f"{'counts' if judge['counts'] else 'does not count'}; {judge['tokens']:,} tokens, cost {judge['cost']:.4g}{stopped}"
    )


def _against(compared: Mapping[str, Any] | None) -> str:
    if compared is None or not compared["n"]:
        return "-"
    low, high = (100 * bound for bound in compared["interval"])
    return f"{100 * compared['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
