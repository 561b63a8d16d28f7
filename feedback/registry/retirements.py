"""Retiring versions: who has to have let go of one before its files may be deleted.

A retirement is a row that stays open until the files are gone. Every gateway worker that shares the database keeps a
row of its own and writes there how far it is with each open retirement; the files go once all workers have said that
their engines know the version no more. Any worker may carry on where another died. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct
from sqlmodel import Session, col, delete, func, select

from feedback.access.audit import Actor, note
from feedback.errors import ConflictError
from feedback.ids import first_id_at, new_id
from feedback.registry.arms import open_canary
from feedback.registry.cycles import OPEN as UNFINISHED
from feedback.registry.models import SERVABLE, champions_before, lock_model
from feedback.registry.versions import get_version, mark_version, order_of
from feedback.storage.tables import (
    Cycle,
    GatewayWorker,
    Inference,
    ModelVersion,
    Move,
    RegisteredModel,
    Retirement,
)

SILENT_SECONDS = 60.0
"""A worker that was not heard of for this long is taken for dead; one that lives says so every few seconds."""
_LATELY_SECONDS = 30 * 86_400.0

Step = Literal["busy", "left", "unloaded"]
"""Requests are under way; none is, nor will be; its engines know the version no more."""


class Progress(Struct, frozen=True):
    """How far one worker is with one retirement."""

    step: Step
    problem: str = ""


def begin_retirement(
    session: Session, model: str, number: str, reason: str, actor: Actor, now: datetime
) -> Retirement:
    """Take a version out of service for good; one that was retired before keeps its row.

    Raises `NotFoundError`, and `ConflictError` for the champion, the version that a rollback leads to, one that a
    canary or watch compares and one whose adapter is just being published.
    """
    row = lock_model(session, model)
    version = get_version(session, model, number)
    known = session.exec(
        select(Retirement).where(Retirement.model == model, Retirement.number == number)
    ).first()
    if known is not None:
        return known
    name = f"{model}@{number}"
    if number == row.champion:
        raise ConflictError(f"{name} is the champion; promote another version before retiring it")
    if number in champions_before(session, row)[:1]:
        raise ConflictError(
            f"{name} was the champion before this one, and a rollback leads to it; it can be retired after the next "
            "promotion"
        )
    on_trial = open_canary(session, model)
    if on_trial is not None and number in (on_trial.version, on_trial.against):
        raise ConflictError(
            f"{name} answers users in a {on_trial.kind}; it can be retired when that has ended (`starloop models show "
            f"{model}`)"
        )
    if version.state == "staged":
        raise ConflictError(f"{name} is being published; wait for the end of its cycle")
    mark_version(session, model, number, "retired")
    retirement = Retirement(
        id=new_id(now),
        model=model,
        number=number,
        base=version.base,
        reason=reason,
        decided_by=actor.name,
        created=now.timestamp(),
    )
    session.add(retirement)
    note(session, actor, "version.retire", model, now, version=number, reason=reason)
    return retirement


def open_retirements(session: Session) -> list[Retirement]:
    """Those whose files are not known to be gone, oldest first."""
    query = select(Retirement).where(col(Retirement.finished).is_(None)).order_by(col(Retirement.id))
    return list(session.exec(query))


def finish_retirement(session: Session, identifier: str, now: datetime) -> None:
    """The files are gone."""
    row = session.get(Retirement, identifier)
    if row is not None and row.finished is None:
        row.finished = now.timestamp()
        session.add(row)


def report_worker(
    session: Session, identifier: str, place: str, progress: Mapping[str, Progress], now: datetime
) -> None:
    """Write that a worker lives, and how far it is with each open retirement, by the retirement's id."""
    row = session.get(GatewayWorker, identifier) or GatewayWorker(id=identifier, place=place, seen=0.0)
    row.seen = now.timestamp()
    row.progress = {name: {"step": one.step, "problem": one.problem} for name, one in progress.items()}
    session.add(row)


def forget_worker(session: Session, identifier: str) -> None:
    """A worker has ended, and everyone else who was not heard of for a day."""
    row = session.get(GatewayWorker, identifier)
    if row is not None:
        long_ago = row.seen - 86_400
        session.exec(
            delete(GatewayWorker).where(
                (col(GatewayWorker.id) == identifier) | (col(GatewayWorker.seen) < long_ago)
            )
        )


def live_workers(session: Session, now: datetime) -> list[GatewayWorker]:
    """Workers that were heard of lately, in the order of their ids."""
    since = now.timestamp() - SILENT_SECONDS
    return list(
        session.exec(
            select(GatewayWorker).where(col(GatewayWorker.seen) > since).order_by(col(GatewayWorker.id))
        )
    )


def progress_of(worker: GatewayWorker, retirement: str) -> Progress | None:
    """How far a worker is with a retirement; None when it has not heard of it."""
    found = worker.progress.get(retirement)
    return None if found is None else Progress(found["step"], found["problem"])


def waits_for(session: Session, retirement: Retirement, now: datetime) -> str:
    """What stands between a retirement and its end, in words."""
    told = []
    for worker in live_workers(session, now):
        progress = progress_of(worker, retirement.id)
        if progress is None:
            told.append(
                f"{worker.place} has not heard of it (it was last heard of {now.timestamp() - worker.seen:.0f} s ago)"
            )
        elif progress.problem:
            told.append(f"{worker.place}: {progress.problem}")
        elif progress.step == "busy":
            told.append(f"{worker.place} has requests under way on it")
    return "; ".join(told) or "the last files are being removed"


def routable(session: Session, base: str) -> int:
    """Versions that can be asked of the engines of a base, over all models that stand on it."""
    query = (
        select(func.count())
        .select_from(ModelVersion)
        .join(RegisteredModel, col(RegisteredModel.name) == col(ModelVersion.model))
        .where(ModelVersion.base == base, RegisteredModel.base == base, col(ModelVersion.state).in_(SERVABLE))
    )
    return int(session.exec(query).one())


def require_room(session: Session, base: str, limit: int) -> None:
    """Raises `ConflictError` when one more version of a base would be more than its engines keep in memory.

    Beyond that an engine reads adapters from the disk again and again, and one whose folder is gone takes it down.
    """
    count = routable(session, base)
    if count >= limit:
        raise ConflictError(
            f"the base {base!r} has {count} versions that can be asked for, and [[engine]] max_cpu_loras is {limit}: "
            "retire one (`starloop models retire assistant@1.0 --reason …`), or raise the limit"
        )


def expendable_versions(
    session: Session, base: str, now: datetime, keep: Mapping[str, int]
) -> list[tuple[ModelVersion, str]]:
    """Versions of a base that make room for the next one, each with what it is in words, those first that are missed least.

    What was turned down, in that order; then what cycles made, nobody decided on and a newer version has overtaken, so that a loop that is
    inconclusive night after night needs no hand; then former champions, those of them first that a rollback has left, but for
    the last `keep` of each model that rollbacks lead to (models that it does not name keep all), so that one that promotes month
    after month needs none either. Of the undecided none that was asked for lately, and of former champions none that was
    asked for by its name: what it answered as the champion, its successor answers.
    """
    query = (
        select(ModelVersion)
        .join(RegisteredModel, col(RegisteredModel.name) == col(ModelVersion.model))
        .where(ModelVersion.base == base, RegisteredModel.base == base, col(ModelVersion.state).in_(SERVABLE))
    )
    versions = sorted(session.exec(query), key=lambda one: (one.created, order_of(one.number)))
    newest = {one.model: one for one in versions}.values()
    going_on = set(session.exec(select(Cycle.id).where(col(Cycle.state).in_(UNFINISHED))))
    undecided = [
        one
        for one in versions
        if one.state == "registered" and one.cycle_id and one.cycle_id not in going_on and one not in newest
    ]
    since = first_id_at(now.timestamp() - _LATELY_SECONDS)
    rejected = [one for one in versions if one.state == "rejected"]
    rejected.sort(key=lambda one: one.rejected or one.created)
    found = [(one, "rejected version") for one in rejected]
    found += [(one, "version that nobody decided on") for one in undecided if not _asked(session, one, since)]
    former = _former_champions(session, versions, keep)
    found += [(one, "former champion") for one in former if not _asked(session, one, since, by_name=True)]
    return found


def _former_champions(
    session: Session, versions: Sequence[ModelVersion], keep: Mapping[str, int]
) -> list[ModelVersion]:
    """Those of some versions that were champions and need not be kept: what rollbacks have left, then who was it longest ago."""
    became = {
        (model, number): when
        for model, number, when in session.exec(
            select(Move.model, Move.to_version, func.max(Move.created)).group_by(
                col(Move.model), col(Move.to_version)
            )
        )
    }
    ranked = []
    for model, kept in keep.items():
        row = session.get(RegisteredModel, model)
        if row is None:
            continue
        back = [number for number in champions_before(session, row) if number is not None]
        ranked += [
            (one.number in back, became[model, one.number], one)
            for one in versions
            if one.model == model
            and (model, one.number) in became
            and one.number not in (row.champion, *back[:kept])
        ]
    return [one for _, _, one in sorted(ranked, key=lambda ranks: ranks[:2])]


def _asked(session: Session, version: ModelVersion, since: str, by_name: bool = False) -> bool:
    asked = select(Inference.id).where(
        Inference.model == version.model,
        Inference.version == version.number,
        col(Inference.id) >= since,
        Inference.purpose == "production",
    )
    if by_name:
        asked = asked.where(col(Inference.pinned).is_(True))
    return session.exec(asked.limit(1)).first() is not None
