"""Model versions: numbers that are given once, and the states that a version goes through.

    staged ──▶ registered ──▶ promoted ──▶ retired
       │            └──▶ rejected ──┘ (a person may still promote it; any of them may be retired, see `retirements`)
       └──▶ retired (its adapter was never published)

A version is `staged` from the moment its number is reserved until its adapter stands published; nothing routes to it
before that. No row is ever deleted, so no number is ever used again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlmodel import Session, col, select

from feedback.errors import ConflictError, NotFoundError
from feedback.ids import new_id
from feedback.registry.models import get_model, lock_model
from feedback.storage.tables import ModelVersion, Tuning

VersionState = Literal["staged", "registered", "promoted", "rejected", "retired"]
_NEXT: dict[str, tuple[VersionState, ...]] = {
    "staged": ("registered", "retired"),
    "registered": ("promoted", "rejected", "retired"),
    "rejected": ("promoted", "retired"),
    "promoted": ("retired",),
    "retired": (),
}


def reserve_version(
    session: Session,
    model: str,
    cycle_id: str | None,
    dataset_id: str | None,
    base: str,
    base_revision: str,
    adapter_hash: str,
    note: str,
    facts: dict[str, Any],
    now: datetime,
    major: bool = False,
) -> ModelVersion:
    """The next number, reserved for one adapter, in state `staged`.

    1.0 is the first; then the minor grows, or the major where the base is another than the last version's or the
    caller says so. A cycle that asks again gets the version that it has; without a cycle, the same weights from the
    same dataset version do. Raises `ConflictError` when a cycle comes with other weights than before: a name must
    never mean two.
    """
    lock_model(session, model)
    versions = list_versions(session, model)
    mine = next(
        (version for version in versions if _asked_before(version, cycle_id, dataset_id, adapter_hash)), None
    )
    if mine is not None:
        if mine.adapter_hash != adapter_hash:
            raise ConflictError(
                f"{model}@{mine.number} was reserved by cycle {cycle_id} for other weights; start a new cycle"
            )
        return mine
    version = ModelVersion(
        id=new_id(now),
        model=model,
        number=_next_number(versions, base, base_revision, major),
        state="staged",
        base=base,
        base_revision=base_revision,
        dataset_id=dataset_id,
        cycle_id=cycle_id,
        adapter_hash=adapter_hash,
        note=note,
        facts=facts,
        created=now.timestamp(),
    )
    session.add(version)
    session.flush()
    return version


def mark_version(session: Session, model: str, number: str, state: VersionState) -> ModelVersion:
    """Bring a version into a state; marking it twice changes nothing.

    Raises `ConflictError` for a step that its life does not have, and for retiring the champion.
    """
    champion = lock_model(session, model).champion
    version = get_version(session, model, number)
    if version.state == state:
        return version
    if state not in _NEXT[version.state]:
        raise ConflictError(f"{model}@{number} is {version.state} and cannot become {state}")
    if state == "retired" and champion == number:
        raise ConflictError(f"{model}@{number} is the champion; promote another version before retiring it")
    version.state = state
    session.add(version)
    return version


def reject_version(session: Session, model: str, number: str, now: datetime) -> None:
    """Turn a registered version down, and note when; one in any other state stays as it is.

    A person may have promoted it meanwhile, which stands.
    """
    version = get_version(session, model, number)
    if version.state == "registered":
        mark_version(session, model, number, "rejected").rejected = now.timestamp()


def get_version(session: Session, model: str, number: str) -> ModelVersion:
    """One version. Raises `NotFoundError` for an unknown model or number."""
    found = session.exec(
        select(ModelVersion).where(ModelVersion.model == model, ModelVersion.number == number)
    ).first()
    if found is None:
        get_model(session, model)
        known = ", ".join(version.number for version in list_versions(session, model)) or "none yet"
        raise NotFoundError(f"the model {model!r} has no version {number[:60]!r}; it has: {known}")
    return found


def list_versions(session: Session, model: str, owner: str | None = None) -> list[ModelVersion]:
    """All versions of a model, highest number first, whatever their state.

    With an `owner` without the fine-tunings that another owner asked for, unless they were promoted.
    """
    query = select(ModelVersion).where(col(ModelVersion.model) == model)
    if owner is not None:
        others = select(Tuning.version).where(
            Tuning.model == model, Tuning.owner != owner, col(Tuning.version).is_not(None)
        )
        query = query.where((col(ModelVersion.state) == "promoted") | col(ModelVersion.number).not_in(others))
    versions = session.exec(query)
    return sorted(versions, key=lambda version: order_of(version.number), reverse=True)


def _asked_before(
    version: ModelVersion, cycle_id: str | None, dataset_id: str | None, adapter_hash: str
) -> bool:
    if cycle_id is not None or version.cycle_id is not None:
        return version.cycle_id == cycle_id
    return (version.dataset_id, version.adapter_hash) == (
        dataset_id,
        adapter_hash,
    ) and version.state != "retired"


def _next_number(versions: list[ModelVersion], base: str, base_revision: str, major: bool) -> str:
    if not versions:
        return "1.0"
    last = versions[0]
    highest, minor = order_of(last.number)
    if major or (last.base, last.base_revision) != (base, base_revision):
        return f"{highest + 1}.0"
    return f"{highest}.{minor + 1}"


def order_of(number: str) -> tuple[int, int]:
    """What numbers are sorted by: 1.10 comes after 1.9."""
    major, _, minor = number.partition(".")
    return int(major), int(minor)
