"""Retention: what is older than `[capture] retention_days` goes from the record.

Whole rows go, not only their texts: a row without its content would no longer be what was written, and a rating without
its answer is still its user's. So an inference goes with its feedback and its failure case, each leaves its tombstone, and
`db verify` counts on. What was frozen stays: dataset versions, evaluation cases and model versions are chosen and looked
at by people, and change only where a user asks to be erased. The prompts that place new rows beside frozen ones stay too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from msgspec import Struct
from sqlmodel import Session, col, or_, select

from feedback.access.audit import Actor, note
from feedback.datasets.groups import prompt_hash
from feedback.errors import UnavailableError
from feedback.ids import new_id
from feedback.privacy.erasure import add_counts, base_prompts
from feedback.privacy.removal import BATCH, Removal, orphans, remove_feedback, remove_inferences
from feedback.privacy.scrub import scrub_database
from feedback.privacy.tombstones import open_mason
from feedback.settings import Settings
from feedback.storage.adoption import adopt
from feedback.storage.case_table import JUDGING
from feedback.storage.database import Database
from feedback.storage.exclusive import alone
from feedback.storage.removal_tables import Erasure
from feedback.storage.tables import Case, Example, Inference, PromptGroup

_READ = 1000
_PATIENCE = 10.0


class Expired(Struct, frozen=True):
    """What went by age."""

    before: datetime | None
    """Inferences from before this moment went; None where everything is kept for ever."""
    counts: dict[str, int] = {}


def expire(
    database: Database,
    settings: Settings,
    actor: Actor,
    now: datetime,
    check: Callable[[], None] = lambda: None,
) -> Expired:
    """Remove what is older than the configured days, a batch in a transaction; run again, it goes on.

    `check` is called between batches and may raise to stop. Raises `ConflictError` while another removal is under way.
    """
    days = settings.capture.retention_days
    if not days:
        return Expired(None)
    cutoff = now - timedelta(days=days)
    with alone(settings.directory):
        for _ in adopt(database, settings.directory):
            pass
        with database.reading() as session:
            if not _old(session, cutoff.timestamp()) and not orphans(session, 1):
                return Expired(cutoff)
        mason = open_mason(settings.directory)
        erasure_id = _begun(database, days, actor, now)
        removal = Removal(mason, erasure_id, now, _still_needed(database, settings, cutoff.timestamp()), True)
        more = True
        while more:
            check()
            with database.session() as session:
                old = _old(session, cutoff.timestamp())
                late = [] if old else orphans(session, BATCH)
                counts = (
                    remove_inferences(session, old, removal)
                    if old
                    else remove_feedback(session, late, removal)
                )
                add_counts(session, erasure_id, counts)
                more = bool(old or late)
                session.commit()
        with suppress(UnavailableError):  # deleted pages are blank; the log is cut another time
            scrub_database(database, _PATIENCE, rewrite=False)
        return _finish(database, erasure_id, cutoff, actor, now)


def _old(session: Session, cutoff: float) -> list[str]:
    query = select(Inference.id).where(Inference.created < cutoff).order_by(col(Inference.created))
    return list(session.exec(query.limit(BATCH)))


def _begun(database: Database, days: int, actor: Actor, now: datetime) -> str:
    with database.session() as session:
        erasure = Erasure(
            id=new_id(now),
            kind="age",
            subject=f"{days} days",
            requested_by=actor.name,
            created=now.timestamp(),
        )
        session.add(erasure)
        session.commit()
        return erasure.id


def _still_needed(database: Database, settings: Settings, cutoff: float) -> Callable[[str], bool]:
    """Which prompts keep their text: those asked since, base examples, and what frozen rows are compared by."""
    kept = {bytes.fromhex(key) for key in base_prompts(settings)}
    with database.reading() as session:
        since = select(Inference.prompt).where(
            Inference.created >= cutoff, col(Inference.prompt).is_not(None)
        )
        for prompt in session.exec(since, execution_options={"yield_per": _READ}):
            if prompt:
                kept.add(bytes.fromhex(prompt_hash(prompt)))
        frozen = select(PromptGroup.prompt_hash).where(
            or_(
                col(PromptGroup.group_key).in_(
                    select(Example.group_key).where(col(Example.erased).is_(None))
                ),
                col(PromptGroup.group_key).in_(select(Case.group_key).where(col(Case.state).in_(JUDGING))),
            )
        )
        for key in session.exec(frozen, execution_options={"yield_per": _READ}):
            kept.add(bytes.fromhex(key))
    return lambda key: bytes.fromhex(key) in kept


def _finish(database: Database, erasure_id: str, cutoff: datetime, actor: Actor, now: datetime) -> Expired:
    with database.session() as session:
        erasure = session.get_one(Erasure, erasure_id)
        erasure.finished = now.timestamp()
        session.add(erasure)
        note(
            session, actor, "record.expire", erasure_id, now, before=cutoff.isoformat(), counts=erasure.counts
        )
        session.commit()
        return Expired(cutoff, dict(erasure.counts))
