"""A person turns down a version that a cycle proposed."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from feedback.access.audit import Actor, note
from feedback.errors import ConflictError
from feedback.registry.arms import open_canary
from feedback.registry.cycles import OPEN as UNFINISHED
from feedback.registry.models import lock_model
from feedback.registry.versions import get_version, reject_version
from feedback.storage.tables import Cycle, ModelVersion


def turn_down(
    session: Session, model: str, number: str, reason: str, actor: Actor, now: datetime
) -> ModelVersion:
    """Mark a registered version as rejected; it keeps its number and its files, and may still be promoted by name.

    Raises `NotFoundError`, and `ConflictError` for a version in any other state, one on which a canary is under way and one
    whose cycle has not ended.
    """
    lock_model(session, model)
    version = get_version(session, model, number)
    name = f"{model}@{number}"
    if version.state != "registered":
        told = "it is rejected already" if version.state == "rejected" else f"it is {version.state}"
        raise ConflictError(
            f"{name} cannot be rejected: {told}; only a version that nobody has decided on can be"
        )
    on_trial = open_canary(session, model)
    if on_trial is not None and on_trial.version == number:
        raise ConflictError(
            f"{name} is in its canary; end that first, with a reason: starloop models end-canary {model}, or POST "
            f"/v1/models/{model}/canary/end"
        )
    cycle = None if version.cycle_id is None else session.get(Cycle, version.cycle_id)
    if cycle is not None and cycle.state in UNFINISHED:
        raise ConflictError(
            f"{name} is decided on by its cycle, which is under way; wait for its end or cancel it: POST "
            f"/v1/cycles/{cycle.id}/cancel"
        )
    reject_version(session, model, number, now)
    note(session, actor, "version.reject", model, now, version=number, reason=reason)
    return version
