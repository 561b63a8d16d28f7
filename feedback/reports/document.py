"""What a report is made of: a month's figures in one document, which all forms of the report show."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from feedback.datasets.failing_kinds import FailingGroup, FailingKind
from feedback.reports.traffic import Day, Looked, Stars, Volume


class Criterion(Struct, frozen=True):
    """One thing that was wanted. `unknown` where the record cannot tell."""

    name: str
    wanted: str
    state: Literal["met", "not met", "unknown"]
    found: str


class VersionRow(Struct, kw_only=True):
    """One version's month."""

    version: str
    note: str = ""
    volume: Volume
    stars: Stars


class Changed(Struct):
    """A golden case that a promotion fixed or broke."""

    prompt: str
    expected: str
    before: str
    after: str


class MoveRow(Struct, kw_only=True):
    """One move of the champion."""

    at: str
    kind: str
    from_version: str
    to_version: str
    reason: str
    decided_by: str
    fixes: int | None = None
    """Golden cases that the new version answers right and the one before did not, when the gate looked."""
    regressions: int | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    fixed: list[Changed] = []
    broken: list[Changed] = []


class CycleRow(Struct, kw_only=True):
    """One turn of the loop."""

    id: str
    at: str
    outcome: str
    version: str | None
    reason: str


class JudgedRow(Struct, kw_only=True):
    """What `[judge]` said in one cycle; see `trainer.judge`."""

    at: str
    cycle: str
    judge: str
    """Its model's name."""
    version: str | None
    against: str | None
    """The champion then."""
    cases: int
    """Golden cases considered."""
    wins: int
    """Of these, those on which it preferred the challenger in both orders."""
    losses: int
    interval: tuple[float, float]
    """Of the difference, at 95 %."""
    known: int
    """Pairs of which people say which answer is right."""
    agreement: float | None
    """Share of these on which it agrees with them."""
    counts: bool
    """Whether it agreed often enough for its word to count."""
    tokens: int | None
    cost: float | None
    """At `[judge]` prices; None of cycles that did not keep it."""


class Costs(Struct, kw_only=True):
    """In the currency of the settings."""

    serving: float | None = None
    """`[[engine]] price_per_hour` over the hours of the period that have passed since the model was registered, shared evenly
    by the models that the engine serves; None without a price."""
    present: bool = True
    """The model was registered before the period's end."""
    sharing: int = 1
    """How many models those are at the end of the period."""
    training: float | None = None
    """`[training] price_per_hour` over the trainings' hours; None without a price."""
    training_seconds: float = 0.0
    per_thousand_answers: float | None = None
    budget: float | None = None
    """`[[model]] monthly_budget`."""

    @property
    def total(self) -> float | None:
        known = [part for part in (self.serving, self.training) if part is not None]
        return sum(known) if known else None


class Report(Struct, kw_only=True):
    """A model's month. Shares are 0..1, times ISO 8601 in UTC."""

    model: str
    month: str
    made: str
    complete: bool
    """Whether the month is over."""
    volume: Volume
    before: Volume
    """Of the month before."""
    stars: Stars
    versions: list[VersionRow]
    days: list[Day]
    """Every day from the first on which something was asked or said to the month's last, or today."""
    reasons: dict[str, int]
    """Failures by reason; one answer may have several."""
    cleared: int
    """Answers that triage had selected and a reviewer found to be no failures; not among the reasons."""
    looked_until: str | None
    """Triage, which a cycle begins with, has looked at what was answered until then; None where at nothing of the month."""
    looked: Looked
    """At how many."""
    valid_format: float | None
    """Share of the answers whose text triage looked at that meets the task contract; None where the model has none, triage
    does not look, or no text was kept."""
    kinds: list[FailingKind]
    groups: list[FailingGroup]
    kinds_found: str | None
    """When the month's kinds were found, once, after its end; None where they were found for this report."""
    moves: list[MoveRow]
    cycles: list[CycleRow]
    waiting: int
    """Failures that wait for a correction, of any month."""
    proposed: list[tuple[str, str, str]]
    """Cycles whose version waits for a person now, of any month: cycle id, version, why."""
    improvement: dict[str, Any]
    """`{version, base, champion, improvement, cases, contenders}`: shares of the golden set, as the last evaluation in or before
    the month saw them, of the base alone where it serves itself; contenders are `{name, model, accuracy, cases, per_thousand}`."""
    judged: list[JudgedRow]
    costs: Costs
    criteria: list[Criterion]
    next_steps: list[str]
