"""Refuses to train again what was turned down: the same lessons come to like weights, and users would get them once more."""

from __future__ import annotations

from pathlib import Path

from sqlmodel import Session, col, select

from feedback.errors import DataRefusedError
from feedback.registry.adapters import adapter_name
from feedback.registry.cycles import REPEAT
from feedback.registry.versions import list_versions
from feedback.storage.tables import Canary, Cycle, ModelVersion, Move
from trainer.publication import what_to_train
from trainer.workshop import Workshop


def refuse_repetition(workshop: Workshop, cycle: Cycle) -> None:
    """Raise `DataRefusedError` where the cycle would train what a version learned that was rejected or rolled back.

    One that was only inconclusive, or gave way to a later version, is no reason; nor is one of before the data, the base or a
    setting of the training changed.
    """
    if REPEAT in cycle.guards_off:
        return
    assert cycle.dataset_id is not None
    nowhere = Path()  # nothing is trained yet
    wanted = what_to_train(workshop.database, workshop.settings, cycle.model, cycle.dataset_id, nowhere)
    lessons = wanted.spec.lessons()
    with workshop.database.reading() as session:
        for version in list_versions(session, cycle.model):
            why = _turned_down(session, version) if version.facts.get("lessons") == lessons else None
            if why is not None:
                raise DataRefusedError(
                    f"{adapter_name(cycle.model, version.number)} learned the very same, and {why}; other examples, another base or "
                    f"other settings of the training change that, or ask for a cycle without the guard {REPEAT}"
                )


def _turned_down(session: Session, version: ModelVersion) -> str | None:
    """What became of it, in words, where that is no recommendation."""
    number = version.number
    touched = select(Move).where(
        Move.model == version.model, (col(Move.from_version) == number) | (col(Move.to_version) == number)
    )
    last = session.exec(touched.order_by(col(Move.position).desc()).limit(1)).first()
    if last is not None:
        back = last.kind == "rollback" and last.from_version == number and last.decided_by != "configuration"
        return f"was rolled back ({last.reason})" if back else None
    if version.rejected is None:
        return None
    cycle = None if version.cycle_id is None else session.get(Cycle, version.cycle_id)
    gate = (cycle.result or {}).get("gate") if cycle else None
    if cycle is not None and gate and gate["decision"] == "rejected":
        return f"was rejected ({cycle.reason or '; '.join(gate['reasons'])})"
    canary = session.exec(
        select(Canary).where(
            Canary.model == version.model, Canary.version == number, Canary.state == "rolled_back"
        )
    ).first()
    return (
        "was rejected by a person" if canary is None else f"was rolled back in its canary ({canary.reason})"
    )
