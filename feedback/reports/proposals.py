"""Which cycles propose a version that waits for a person, as it stands now."""

from __future__ import annotations

from sqlmodel import Session, col, select

from feedback.storage.tables import Cycle, ModelVersion

_MOST = 5


def proposals(session: Session, model: str) -> list[tuple[str, str, str]]:
    """Cycle id, version and why, the newest first; without those whose version somebody has decided about."""
    found = session.exec(
        select(Cycle.id, Cycle.version, Cycle.reason)
        .join(
            ModelVersion,
            (col(ModelVersion.model) == col(Cycle.model)) & (col(ModelVersion.number) == col(Cycle.version)),
        )
        .where(Cycle.model == model, Cycle.decision == "proposed", ModelVersion.state == "registered")
        .order_by(col(Cycle.id).desc())
        .limit(_MOST)
    )
    return [(identifier, version or "", reason or "") for identifier, version, reason in found]
