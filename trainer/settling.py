"""The last step of a cycle: acts on what the gate said, as far as the cycle's mode allows.

Where `[canary] share` says so, users decide before the champion moves: the cycle then waits in state `canary` while the
loop goes on with other work, and `trainer.canary_keeper` ends it.
"""

from __future__ import annotations

import msgspec
from sqlmodel import col, select

from feedback.errors import ConflictError
from feedback.registry.canaries import BASE, canary_of
from feedback.registry.models import get_model
from feedback.registry.versions import reject_version
from feedback.storage.tables import Canary, Move
from trainer.canary_keeper import watch_promotion
from trainer.gate import Decision
from trainer.record import CycleRecord
from trainer.workshop import Workshop


def settle(workshop: Workshop, record: CycleRecord) -> None:
    """Report, propose, begin a canary or promote. Promotes at most once, whatever happens."""
    cycle, name = record.row, f"{record.row.model}@{record.challenger}"
    result = cycle.result or {}
    decision = msgspec.convert(result["gate"], Decision)
    if decision.decision == "rejected":
        with workshop.database.session() as session:
            reject_version(session, cycle.model, record.challenger, workshop.clock())
            session.commit()
    if cycle.mode == "report":
        record.finish("reported", f"nothing was moved; the gate said {decision.decision}: {decision.reason}")
    elif decision.for_a_person:
        _propose(
            workshop, record, f"there is no golden set, so a person decides on {name}: {decision.reason}"
        )
    elif decision.decision != "promoted":
        record.finish(decision.decision, decision.reason)
    elif cycle.mode == "propose":
        _propose(workshop, record, f"{name} waits for a person to promote it: {decision.reason}")
    else:
        _go_live(workshop, record, decision)


def _propose(workshop: Workshop, record: CycleRecord, told: str) -> None:
    """Leave it to a person, unless somebody has moved the champion since the comparison."""
    compared, serving = (record.row.result or {})["champion"], _serving(workshop, record)
    if serving == compared:
        record.finish("proposed", told)
    else:
        _leave(record, compared, serving)


def _go_live(workshop: Workshop, record: CycleRecord, decision: Decision) -> None:
    """Begin the canary or move the champion, unless somebody else has moved it since the comparison."""
    cycle, compared = record.row, (record.row.result or {})["champion"]
    if ended_by_its_move(workshop, record):
        return
    begun = _begun(workshop, record)
    if begun is None and _serving(workshop, record) != compared:
        _leave(record, compared, _serving(workshop, record))
        return
    if begun is None:
        gateway, name, wanted = workshop.gateway, record.challenger, workshop.settings.canary
        try:
            if wanted.share:
                gateway.begin_canary(
                    cycle.model, name, wanted.share, wanted.hours, decision.reason, cycle.id, compared
                )
            else:
                gateway.promote(cycle.model, name, decision.reason, cycle.id, compared)
        except ConflictError:  # while the engines were warmed, or after an answer that was lost
            if ended_by_its_move(workshop, record):
                return
            if _serving(workshop, record) == compared:
                raise
            _leave(record, compared, _serving(workshop, record))
            return
        begun = _begun(workshop, record)
    if begun is None:
        ended_by_its_move(workshop, record)
        return
    record.leave_to_users(
        f"the gate said promoted: {decision.reason}; {begun.share:.0%} of the users get "
        f"{cycle.model}@{record.challenger} for at most {(begun.limit - begun.created) / 3600:g} h"
    )


def _begun(workshop: Workshop, record: CycleRecord) -> Canary | None:
    """The canary that this cycle has begun, as it stands in the record: settings may have changed since."""
    with workshop.database.reading() as session:
        return canary_of(session, record.row.id, "canary")


def ended_by_its_move(workshop: Workshop, record: CycleRecord) -> bool:
    """Where this cycle has moved the champion, end it as promoted, with its watch, whatever came after; whether it had."""
    cycle = record.row
    with workshop.database.session() as session:
        move = session.exec(
            select(Move).where(Move.cycle_id == cycle.id).order_by(col(Move.position))
        ).first()
        if move is None:
            return False
        watch_promotion(workshop, session, cycle, move.from_version or BASE)
        session.commit()
    record.finish("promoted", move.reason)
    return True


def _serving(workshop: Workshop, record: CycleRecord) -> str:
    with workshop.database.reading() as session:
        return get_model(session, record.row.model).champion or BASE


def _leave(record: CycleRecord, compared: str, serving: str) -> None:
    if serving == record.challenger:
        said = msgspec.convert((record.row.result or {})["gate"], Decision)
        told = f"somebody promoted {record.row.model}@{serving} before the cycle's end"
        record.finish(
            "promoted",
            f"{told}; the gate compared it with {compared} and said: {said.decision}: {said.reason}",
        )
        return
    record.finish(
        "inconclusive",
        f"the champion moved from {compared} to {serving} while the cycle ran, and the comparison was with the "
        "former; run another cycle",
    )
