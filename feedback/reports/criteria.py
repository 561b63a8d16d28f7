"""Which of the success criteria a month met, and what to do next: plain sentences drawn from its figures. Pure."""

from __future__ import annotations

from typing import Literal

from feedback.reports.document import Criterion, Report

IMPROVEMENT, STARS, FORMAT = 0.10, 4.0, 0.95
_FEW_RATED = 0.02
_MANY_WAITING = 50


def criteria(report: Report) -> list[Criterion]:
    """In the order in which they are looked at."""
    return [_improvement(report), _stars(report), _format(report), _cost(report)]


def next_steps(report: Report) -> list[str]:
    """What would help most, the most pressing first."""
    steps = []
    if not report.volume.answers:
        return ["Nobody asked this model in this month: point an application at it."]
    if report.volume.errors > 0.01 * (report.volume.answers + report.volume.errors):
        steps.append(
            f"{report.volume.errors:,} requests failed; the gateway's log and /inferences?reason=error say why."
        )
    if not report.improvement:
        steps.append(
            "Nothing compares the serving version with the base yet: draw golden cases (starloop data golden draw), confirm "
            "their answers, and run a cycle."
        )
    rated = report.stars.rated_share or 0.0
    if rated < _FEW_RATED:
        steps.append(
            f"{_percent(rated)} of the answers are rated; ask for stars where people read the answers, or the means say little."
        )
    if report.waiting >= _MANY_WAITING:
        steps.append(
            f"{report.waiting:,} failures wait for a right answer; reviewing them (or a [teacher]) makes the next training's data."
        )
    for kind in report.kinds[:2]:
        name = ", ".join([*(f"“{phrase}”" for phrase in kind.phrases[:3]), *kind.metadata[:2]])
        steps.append(
            f"Inputs with {name} fail in {_percent(kind.share)} of cases ({_percent(kind.elsewhere)} elsewhere): correct some of them."
        )
    for cycle_id, version, why in report.proposed:
        steps.append(f"Cycle {cycle_id} proposes {report.model}@{version}, to promote or to reject: {why}")
    if report.cycles and report.cycles[-1].outcome == "inconclusive":
        steps.append(f"The last cycle, {report.cycles[-1].id}, was inconclusive: {report.cycles[-1].reason}")
    failed = [cycle for cycle in report.cycles if cycle.outcome == "failed"]
    if failed:
        steps.append(f"Cycle {failed[-1].id} failed: {failed[-1].reason}")
    if report.costs.total is None:
        steps.append("Costs are unknown: set price_per_hour of the [[engine]] and of [training].")
    return steps or ["Nothing presses; keep confirming golden cases so that the next version can be judged."]


def _improvement(report: Report) -> Criterion:
    found = report.improvement
    if not found:
        return Criterion(
            "better than the base",
            "≥ 10 points on the golden set",
            "unknown",
            "no evaluation has both of them",
        )
    if found["version"] == "base":
        text = f"the base itself serves: {_percent(found['base'])} of {found['cases']} cases"
        return Criterion("better than the base", "≥ 10 points on the golden set", "not met", text)
    text = (
        f"{report.model}@{found['version']} {_percent(found['champion'])}, base {_percent(found['base'])} "
        f"of {found['cases']} cases: {100 * found['improvement']:+.1f} points"
    )
    met = found["improvement"] >= IMPROVEMENT
    return Criterion(
        "better than the base", "≥ 10 points on the golden set", "met" if met else "not met", text
    )


def _stars(report: Report) -> Criterion:
    stars = report.stars
    if stars.mean is None:
        return Criterion("rated highly", "≥ 4 stars", "unknown", "nobody rated")
    text = f"{stars.mean:.2f} stars by {stars.raters:,} raters"
    if stars.interval is None:
        return Criterion("rated highly", "≥ 4 stars", "unknown", f"{text}: too few to tell")
    low, high = stars.interval
    text += f" (95 %: {low:.2f} to {high:.2f})"
    state: Literal["met", "not met", "unknown"] = (
        "met" if low >= STARS else "not met" if high < STARS else "unknown"
    )
    return Criterion(
        "rated highly", "≥ 4 stars", state, text if state != "unknown" else f"{text}: too few to tell"
    )


def _format(report: Report) -> Criterion:
    if report.valid_format is None:
        return Criterion(
            "right form",
            "≥ 95 % valid",
            "unknown",
            "not known: the model has no schema, labels, pattern or check, or triage has looked at no answer's text",
        )
    state: Literal["met", "not met"] = "met" if report.valid_format >= FORMAT else "not met"
    found = f"{_percent(report.valid_format)} of {report.looked.texts:,} answers whose text triage looked at"
    return Criterion("right form", "≥ 95 % valid", state, found)


def _cost(report: Report) -> Criterion:
    costs = report.costs
    wanted = "as set" if costs.budget is None else f"≤ {costs.budget:,.2f} a month"
    if costs.total is None:
        return Criterion("cost", wanted, "unknown", "no prices are set")
    if not costs.present:
        return Criterion(
            "cost", wanted, "unknown", "the model was not there yet, so there was nothing to pay for"
        )
    text = f"{costs.total:,.2f}"
    if costs.per_thousand_answers is not None:
        text += f", {costs.per_thousand_answers:,.4f} for a thousand answers"
    if costs.budget is None:
        return Criterion("cost", "monthly_budget is not set", "unknown", text)
    return Criterion("cost", wanted, "met" if costs.total <= costs.budget else "not met", text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
