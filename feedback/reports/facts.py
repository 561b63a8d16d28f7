"""Everything that a report says, gathered from the record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session, col, func, select

from feedback.datasets.contract import TaskContract, answer_key
from feedback.datasets.failing_kinds import find_failing_kinds
from feedback.errors import BadFieldError, NotFoundError
from feedback.registry.versions import order_of
from feedback.reports.costs import costs_of
from feedback.reports.criteria import criteria, next_steps
from feedback.reports.document import Changed, CycleRow, MoveRow, Report, VersionRow
from feedback.reports.judging import judged_in
from feedback.reports.monthly import kept_month, month_of
from feedback.reports.proposals import proposals
from feedback.reports.traffic import (
    ALL,
    Looked,
    Period,
    Stars,
    Volume,
    cleared,
    days,
    filled,
    looked_at,
    misformed,
    reasons,
    stars,
    volumes,
)
from feedback.settings import Model, Settings
from feedback.storage.arrival_tables import TriageMark
from feedback.storage.tables import Case, Cycle, EvaluationResult, Failure, ModelVersion, Move

_EXAMPLES = 3
_SHOWN = 300


def period_of(settings: Settings, model: str, month: str, now: datetime) -> Period:
    """What a report is to look at. Raises `NotFoundError` for an unknown model, `BadFieldError` for no month or one that has
    not begun."""
    if settings.model_named(model) is None:
        known = ", ".join(one.name for one in settings.model)
        raise NotFoundError(
            f"there is no [[model]] named {model[:60]!r} in the configuration; there are: {known}"
        )
    since, until = month_of(month)
    if since > now.timestamp():
        raise BadFieldError("month", f"{month} has not begun; the newest month is {now:%Y-%m}")
    return Period(model, since, until)


def gather(session: Session, settings: Settings, model: str, month: str, now: datetime) -> Report:
    """A model's report. Raises what `period_of` raises."""
    period = period_of(settings, model, month, now)
    since, until = period.since, period.until
    configured = settings.model_named(model)
    assert configured is not None
    volume = volumes(session, period)
    said = stars(session, period, volume)
    failed = reasons(session, period)
    kept = kept_month(session, model, month)
    kinds = kept.found if kept else find_failing_kinds(session, model, since, until) if failed else None
    everything = volume[ALL]
    looked_until, looked, valid = in_form(session, settings, configured, period)
    report = Report(
        model=model,
        month=month,
        made=now.isoformat(timespec="seconds"),
        complete=now.timestamp() >= until,
        volume=everything,
        before=volumes(session, Period(model, _month_before(since), since))[ALL],
        stars=said[ALL],
        versions=version_rows(session, model, volume, said),
        days=filled(
            days(session, period, timed=True),
            datetime.fromtimestamp(min(until - 1, now.timestamp()), UTC).date(),
        ),
        reasons=failed,
        cleared=cleared(session, period),
        looked_until=looked_until,
        looked=looked,
        valid_format=valid,
        kinds=kinds.items if kinds else [],
        groups=kinds.groups if kinds else [],
        kinds_found=kept.made.isoformat(timespec="seconds") if kept else None,
        moves=_moves(session, model, since, until),
        cycles=_cycles(session, model, since, until),
        waiting=_waiting(session, model),
        proposed=proposals(session, model),
        improvement=_improvement(session, model, until),
        judged=judged_in(session, model, since, until),
        costs=costs_of(session, settings, period, everything.answers, now),
        criteria=[],
        next_steps=[],
    )
    report.criteria = criteria(report)
    report.next_steps = next_steps(report)
    return report


def _month_before(since: float) -> float:
    """When the month before one that begins at `since` began; nothing was before 1970."""
    last = datetime.fromtimestamp(max(since - 1, 0.0), UTC)
    return datetime(last.year, last.month, 1, tzinfo=UTC).timestamp()


def in_form(
    session: Session, settings: Settings, model: Model, period: Period
) -> tuple[str | None, Looked, float | None]:
    """Until when triage has looked at a period's answers, at how many, and the share of them that meets the task contract.

    The moment is None where it has looked at none, the share where nothing tells it: no contract, or no text was kept.
    """
    mark = session.get(TriageMark, model.name)
    if mark is None or mark.stored <= period.since:
        return None, Looked(), None
    seen = Period(model.name, period.since, min(period.until, mark.stored))
    looked, valid = looked_at(session, seen), None
    checks = TaskContract.from_settings(model).restricts and "schema_invalid" not in settings.triage.off
    if checks and looked.texts:
        valid = 1 - min(misformed(session, seen), looked.texts) / looked.texts
    return _moment(seen.until), looked, valid


def version_rows(
    session: Session, model: str, volume: Mapping[str, Volume], said: Mapping[str, Stars]
) -> list[VersionRow]:
    """What each version that answered, or was rated, did, in the order of their numbers."""
    notes = dict(
        session.exec(select(ModelVersion.number, ModelVersion.note).where(ModelVersion.model == model)).all()
    )
    return [
        VersionRow(
            version=name,
            note=notes.get(name, ""),
            volume=volume.get(name, Volume()),
            stars=said.get(name, Stars()),
        )
        for name in sorted({*volume, *said} - {ALL}, key=_order)
    ]


def _order(version: str) -> tuple[int, ...]:
    return (-1,) if version == "base" else tuple(order_of(version))


def _moves(session: Session, model: str, since: float, until: float) -> list[MoveRow]:
    query = select(Move).where(Move.model == model, Move.created >= since, Move.created < until)
    rows = []
    for move in session.exec(query.order_by(col(Move.position))).all():
        row = MoveRow(
            at=_moment(move.created),
            kind=move.kind,
            from_version=move.from_version or "base",
            to_version=move.to_version or "base",
            reason=move.reason,
            decided_by=move.decided_by,
        )
        cycle = session.get(Cycle, move.cycle_id) if move.cycle_id else None
        golden = ((cycle.result or {}).get("gate") or {}).get("suites", {}).get("golden") if cycle else None
        if golden:
            low, high = golden["interval"]
            row.fixes, row.regressions = golden["fixes"], golden["regressions"]
            row.difference, row.interval = golden["difference"], (low, high)
        row.fixed, row.broken = _changed(session, model, row.from_version, row.to_version)
        rows.append(row)
    return rows


def _changed(session: Session, model: str, before: str, after: str) -> tuple[list[Changed], list[Changed]]:
    """Some golden cases on which two versions' kept answers differ in being right: fixed ones and broken ones."""
    cases = session.exec(
        select(Case.prompt_hash, Case.messages, Case.answer)
        .where(Case.model == model, Case.suite == "golden", Case.state == "confirmed")
        .order_by(col(Case.id))
    ).all()
    given: dict[str, dict[str, str]] = {}
    for version in (before, after):
        rows = session.exec(
            select(EvaluationResult.prompt_hash, EvaluationResult.output).where(
                EvaluationResult.model == model, EvaluationResult.version == version
            )
        )
        given[version] = dict(rows.all())
    fixed: list[Changed] = []
    broken: list[Changed] = []
    for prompt_hash, messages, answer in cases:
        ours, theirs = given[before].get(prompt_hash), given[after].get(prompt_hash)
        if ours is None or theirs is None or answer is None:
            continue
        right = [answer_key(one) == answer_key(answer) for one in (ours, theirs)]
        if right[0] == right[1]:
            continue
        prompt = str(messages[-1].get("content", ""))
        row = Changed(prompt[:_SHOWN], answer[:_SHOWN], ours[:_SHOWN], theirs[:_SHOWN])
        (fixed if right[1] else broken).append(row)
    return fixed[:_EXAMPLES], broken[:_EXAMPLES]


def _cycles(session: Session, model: str, since: float, until: float) -> list[CycleRow]:
    query = select(Cycle).where(Cycle.model == model, Cycle.created >= since, Cycle.created < until)
    return [
        CycleRow(
            id=cycle.id,
            at=_moment(cycle.created),
            outcome=cycle.decision or cycle.state,
            version=cycle.version,
            reason=cycle.reason or "",
        )
        for cycle in session.exec(query.order_by(col(Cycle.id)))
    ]


def _waiting(session: Session, model: str) -> int:
    query = select(func.count()).where(Failure.model == model, Failure.state == "quarantine")
    return session.exec(query).one()


def _improvement(session: Session, model: str, until: float) -> dict[str, Any]:
    """What the version that served at the end of the period was worth beside the base, by the golden set."""
    moved = session.exec(
        select(Move.to_version)
        .where(Move.model == model, Move.created < until)
        .order_by(col(Move.position).desc())
        .limit(1)
    ).first()
    serving = moved or "base"
    query = select(Cycle).where(Cycle.model == model, Cycle.created < until).order_by(col(Cycle.id).desc())
    for cycle in session.exec(query.limit(100)):
        versions = (cycle.result or {}).get("versions") or {}
        shares = {
            name: (versions.get(name, {}).get("golden") or {}).get("accuracy") for name in ("base", serving)
        }
        if shares["base"] is not None and shares[serving] is not None:
            return {
                "version": serving,
                "base": shares["base"],
                "champion": shares[serving],
                "improvement": shares[serving] - shares["base"],
                "cases": versions[serving]["golden"]["n"],
                "contenders": _contenders(cycle.result or {}),
            }
    return {}


def _contenders(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What models elsewhere made of the same golden set, and at what price."""
    return [
        {
            "name": name,
            "model": one["model"],
            "accuracy": one["suites"]["golden"]["accuracy"],
            "cases": one["suites"]["golden"]["n"],
            "per_thousand": one["per_thousand"],
        }
        for name, one in (result.get("contenders") or {}).items()
        if one["suites"]["golden"]["n"]
    ]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
