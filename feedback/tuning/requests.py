"""Asking for fine-tunings, steering them and looking at them. Who runs them is the loop's business: here is only the row.

    validating_files ──▶ queued ──▶ running ──▶ succeeded | failed
            └──────────────┴───────────┴──▶ paused (and back) | cancelled

Nothing here commits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from msgspec import Struct
from sqlalchemy import delete
from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.errors import BadFieldError, ConflictError, NotFoundError
from feedback.files.stored import PREFIX as FILE_PREFIX
from feedback.files.stored import Viewer, bare_id, get_file
from feedback.ids import new_id
from feedback.storage.paging import id_after
from feedback.storage.tables import RegisteredModel, TrainingStep, Tuning

PREFIX = "ftjob-"
NAMED = "ft:"
"""What the second names of versions that fine-tunings made begin with; no registered name has a colon."""
ENDED = ("succeeded", "failed", "cancelled")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_LEFT = {"cancel": "cancelled", "pause": "paused"}


class Looker(NamedTuple):
    """Who asks for fine-tunings: by which key, and for which models that is."""

    viewer: Viewer
    models: Collection[str] | None = None
    """None is all."""

    def sees(self, row: Tuning) -> bool:
        return self.viewer.sees(row) and (self.models is None or row.model in self.models)


class NewTuning(Struct, kw_only=True, frozen=True):
    """What is asked for."""

    model: str
    training_file: str
    validation_file: str | None
    method: str
    hyperparameters: Mapping[str, Any]
    """Without those that are `auto`."""
    seed: int
    suffix: str
    metadata: Mapping[str, str] | None


def request_tuning(session: Session, asked: NewTuning, looker: Looker, actor: Actor, now: datetime) -> Tuning:
    """Write a fine-tuning down. Raises `BadFieldError` for a file or model that the caller does not have."""
    model = registered_model(session, asked.model, looker.models)
    files = {
        field: _file(session, name, field, looker.viewer)
        for field, name in (
            ("training_file", asked.training_file),
            ("validation_file", asked.validation_file),
        )
        if name is not None
    }
    row = Tuning(
        id=new_id(now),
        model=model.name,
        base=model.base,
        asked=asked.model,
        training_file=files["training_file"],
        validation_file=files.get("validation_file"),
        method=asked.method,
        hyperparameters=dict(asked.hyperparameters),
        seed=asked.seed,
        suffix=asked.suffix,
        metadata_=None if asked.metadata is None else dict(asked.metadata),
        created=now.timestamp(),
        owner=actor.name,
        key_id=actor.key_id,
    )
    tell(row, f"Asked for by {actor.name}: a new version of {model.name}", now, kind="asked")
    session.add(row)
    facts = {"model": row.model, "training_file": FILE_PREFIX + row.training_file, "method": row.method}
    note(session, actor, "fine_tuning.create", row.id, now, **facts)
    session.flush()
    return row


def get_tuning(session: Session, identifier: str, looker: Looker, lock: bool = False) -> Tuning:
    """One, by the id that clients have; held against others with `lock`. Raises `NotFoundError`, also for somebody else's."""
    bare = bare_id(identifier, PREFIX, "fine-tuning job")
    row = session.get(Tuning, bare, with_for_update=lock or None, populate_existing=lock)
    if row is None or not looker.sees(row):
        raise NotFoundError(
            f"there is no fine-tuning job {identifier[:60]!r}; GET /v1/fine_tuning/jobs lists those there are"
        )
    return row


def list_tunings(
    session: Session,
    looker: Looker,
    limit: int,
    after: str | None = None,
    metadata: Mapping[str, str] | None = None,
    without_metadata: bool = False,
) -> tuple[list[Tuning], bool]:
    """A page of them, newest first, and whether there are more; `metadata` are pairs that each must have."""
    query = select(Tuning).order_by(col(Tuning.id).desc()).limit(limit + 1)
    if not looker.viewer.everything:
        query = query.where(Tuning.key_id == looker.viewer.key_id)
    if looker.models is not None:
        query = query.where(col(Tuning.model).in_(looker.models))
    if after is not None:
        query = query.where(col(Tuning.id) < id_after(after, PREFIX, "a fine-tuning job"))
    if without_metadata:
        query = query.where(col(Tuning.metadata_).is_(None))
    for name, value in (metadata or {}).items():
        query = query.where(col(Tuning.metadata_)[name].as_string() == value)
    found = list(session.exec(query))
    return found[:limit], len(found) > limit


def cancel_tuning(session: Session, identifier: str, looker: Looker, actor: Actor, now: datetime) -> Tuning:
    """Ask one to end: one that does not run has ended with that, a running one does within some seconds.

    Raises `ConflictError` when it has ended already.
    """
    return _leave(session, identifier, looker, "cancel", actor, now)


def pause_tuning(session: Session, identifier: str, looker: Looker, actor: Actor, now: datetime) -> Tuning:
    """Ask one to stand still; a training that runs ends, and goes on from its newest checkpoint when it is resumed."""
    return _leave(session, identifier, looker, "pause", actor, now)


def resume_tuning(session: Session, identifier: str, looker: Looker, actor: Actor, now: datetime) -> Tuning:
    """Let a paused one go on, at the place in the queue that its age gives it. Raises `ConflictError` for another."""
    row = get_tuning(session, identifier, looker, lock=True)
    if row.state == "running" and row.wanted == "pause":
        row.wanted = None
    elif row.state == "paused":
        row.state = "validating_files" if row.training_import is None else "queued"
    else:
        raise ConflictError(f"the fine-tuning job {identifier[:60]} is {row.state}, and not paused")
    tell(row, f"Resumed by {actor.name}", now, kind="restarted")
    note(session, actor, "fine_tuning.resume", row.id, now)
    session.add(row)
    return row


def delete_tuning(session: Session, identifier: str, looker: Looker, actor: Actor, now: datetime) -> None:
    """Forget one that has ended, and its name `ft:…`; its steps too, unless a version came of them.

    Raises `ConflictError` while it has not ended.
    """
    row = get_tuning(session, identifier, looker, lock=True)
    if row.state not in ENDED:
        raise ConflictError(f"the fine-tuning job {identifier[:60]} is {row.state}; cancel it first")
    if row.version is None:
        session.execute(delete(TrainingStep).where(col(TrainingStep.run) == row.id))
    note(session, actor, "fine_tuning.delete", row.id, now, model=row.model, version=row.version)
    session.delete(row)


def tell(row: Tuning, text: str, now: datetime, level: str = "info", kind: str = "") -> None:
    """Add to what happened; `kind` is what it is about in a word, for APIs that name that."""
    row.messages = [*row.messages, {"time": now.timestamp(), "level": level, "text": text, "kind": kind}]


def alias_of(row: Tuning) -> str:
    """`ft:<base>:<who asked>:<suffix>:<end of the id>`; of a base that is a directory, the last part of its name."""
    base = _plain(row.base.rstrip("/").rpartition("/")[2]) or "base"
    return f"{NAMED}{base}:{organisation_of(row)}:{row.suffix}:{row.id[-12:]}"


def organisation_of(row: Tuning) -> str:
    """Who asked, in letters that a model's name may have."""
    return _plain(row.owner) or "starloop"


def _plain(text: str) -> str:
    return _ODD.sub("-", text).strip("-")[:64]


def registered_model(
    session: Session, name: str, models: Collection[str] | None, field: str = "model"
) -> RegisteredModel:
    """The model of that name, or the only one on the base of that name. Raises `BadFieldError` for `field`."""
    known = [row for row in session.exec(select(RegisteredModel)) if models is None or row.name in models]
    fitting = [row for row in known if row.name == name] or [row for row in known if row.base == name]
    names = ", ".join(sorted(row.name for row in (fitting or known))) or "none"
    if len(fitting) > 1:
        raise BadFieldError(field, f"{name[:60]!r} is the base of several models; name one of them: {names}")
    if not fitting:
        hint = "; a version is not trained on further" if "@" in name or name.startswith(NAMED) else ""
        raise BadFieldError(field, f"there is no model {name[:60]!r} to fine-tune{hint}; there are: {names}")
    return fitting[0]


def _file(session: Session, name: str, field: str, viewer: Viewer) -> str:
    try:
        row = get_file(session, name, viewer)
    except NotFoundError as error:
        raise BadFieldError(field, str(error)) from None
    if row.purpose != "fine-tune":
        raise BadFieldError(
            field, f"{name[:60]!r} was sent for {row.purpose}; send it again for the purpose fine-tune"
        )
    return row.id


def _leave(
    session: Session,
    identifier: str,
    looker: Looker,
    wanted: Literal["cancel", "pause"],
    actor: Actor,
    now: datetime,
) -> Tuning:
    row = get_tuning(session, identifier, looker, lock=True)
    if row.state in ENDED:
        raise ConflictError(
            f"the fine-tuning job {identifier[:60]} is {row.state}; there is nothing to {wanted}"
        )
    if row.state == "running":
        row.wanted = wanted
        tell(row, f"Asked to {wanted} by {actor.name}", now, kind="leaving" if wanted == "cancel" else "left")
    elif row.state != _LEFT[wanted]:
        row.state = _LEFT[wanted]
        row.finished = now.timestamp() if wanted == "cancel" else None
        tell(row, f"{row.state.capitalize()} by {actor.name}", now, kind="left")
    note(session, actor, "fine_tuning.cancel" if wanted == "cancel" else "fine_tuning.pause", row.id, now)
    session.add(row)
    return row
