"""The offline gate: from paired outcomes to promoted, rejected or inconclusive, with reasons in words.

Pure: it asks nobody and remembers nothing. The golden set decides, because its cases were drawn at random and blind to
outcome; the regression suite protects, and both together each kind of answer (`trainer.kinds`). Answers that the champion was
praised for it can only pass, so an equal challenger seems to lose there: they can clear a challenger or hold it up, never condemn
it, until another version is champion. The failure hold-out is shown and never weighed: its cases were chosen by the
champion's failing them, so even an equal challenger looks better there. A finding `against` is proven harm
or a failed guardrail and rejects; an `open` one leaves the cycle inconclusive; promotion needs neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from feedback.settings import Promotion
from trainer.comparison import Comparison, Outcome
from trainer.findings import (
    Finding,
    Latency,
    critical_finding,
    golden_finding,
    holdout_finding,
    latency_finding,
    looks_finding,
    praised_finding,
    regression_finding,
    validity_finding,
)
from trainer.kinds import facets_finding, kinds_finding

DecisionName = Literal["promoted", "rejected", "inconclusive"]
_WEIGHT = {"promoted": "for", "rejected": "against", "inconclusive": "open"}
"""The verdict that makes each decision."""


class Evidence(Struct, frozen=True):
    """All that the gate looks at."""

    golden: Sequence[Outcome]
    regression: Sequence[Outcome]
    holdout: Sequence[Outcome]
    validity: Sequence[Outcome]
    """1 where the answer meets the task contract; over cases that were not chosen by anyone's success."""
    latency: Latency | None
    looks: Sequence[int] = ()
    """How often each golden case was read before."""
    praised: Sequence[Outcome] = ()
    """The rest of the regression suite: cases whose answer the present champion itself gave, and was praised for."""
    judge: Finding | None = None
    """What a judge says, where one is asked: it may hold a promotion up, and never makes one."""
    limit: int | None = None
    """Cases of a suite that are read at most, however many were confirmed."""


class Decision(Struct, frozen=True):
    """What the gate says. `reasons` are sentences, the deciding ones first."""

    decision: DecisionName
    reasons: list[str]
    findings: list[Finding]
    suites: dict[str, Comparison]
    latency: Latency | None
    for_a_person: bool = False
    """Nothing speaks against the challenger, but without a golden set only a person may promote it."""

    @property
    def reason(self) -> str:
        """The findings that made the decision, as one text."""
        return ". ".join(
            finding.text for finding in self.findings if finding.verdict == _WEIGHT[self.decision]
        )


def decide(evidence: Evidence, limits: Promotion) -> Decision:
    """Judge a challenger against the champion; `science.md`'s offline gate."""
    fair = Comparison.of(evidence.regression)
    suites = {
        "golden": Comparison.of(evidence.golden),
        "regression": Comparison.of([*evidence.regression, *evidence.praised]),
        "praised": Comparison.of(evidence.praised),
        "holdout": Comparison.of(evidence.holdout),
        "validity": Comparison.of(evidence.validity),
    }
    findings = [
        golden_finding(suites["golden"], limit=evidence.limit),
        regression_finding(fair, limits.margin, suites["regression"], evidence.limit),
        *praised_finding(suites["praised"], evidence.golden, limits.margin),
        critical_finding([*evidence.golden, *evidence.regression, *evidence.praised]),
        *kinds_finding(evidence.golden, evidence.regression),
        validity_finding(evidence.validity, suites["validity"], limits.format_floor),
        latency_finding(evidence.latency, limits.latency),
        holdout_finding(suites["holdout"]),
        *facets_finding([*evidence.golden, *evidence.regression]),
        *looks_finding(evidence.looks),
        *([evidence.judge] if evidence.judge is not None else []),
    ]
    decision = settle(findings)
    still_open = [finding.about for finding in findings if finding.verdict == "open"]
    return Decision(
        decision=decision,
        reasons=reasons(findings, decision),
        findings=findings,
        suites=suites,
        latency=evidence.latency,
        for_a_person=decision == "inconclusive" and not evidence.golden and still_open == ["golden set"],
    )


def settle(findings: Sequence[Finding]) -> DecisionName:
    """One finding against rejects, one open leaves it inconclusive, else promoted."""
    verdicts = {finding.verdict for finding in findings}
    if "against" in verdicts:
        return "rejected"
    return "inconclusive" if "open" in verdicts else "promoted"


def reasons(findings: Sequence[Finding], decision: DecisionName) -> list[str]:
    """The findings' sentences, those first that made the decision."""
    return [
        finding.text for finding in sorted(findings, key=lambda finding: finding.verdict != _WEIGHT[decision])
    ]
