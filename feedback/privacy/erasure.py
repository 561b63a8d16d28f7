"""Erasing a user: everything they asked, said and were answered goes, and what was made of it.

The order makes it safe to be killed anywhere and run again: first what undrained journals hold comes to the database, then
dataset versions lose their rows, then the record's own rows go (each with its tombstone, a batch in a transaction), and only
then are free pages and logs scrubbed. An erasure that was interrupted is found by the user's keyed hash and goes on; what
it had done it finds done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlmodel import Session, col, or_, select

from feedback.access.audit import Actor, note
from feedback.datasets.chat import base_examples
from feedback.datasets.groups import prompt_hash
from feedback.errors import BadFieldError, BadInputError, ConflictError, UnavailableError
from feedback.ids import new_id
from feedback.privacy.examples import erase_examples, examples_of, forget_raters
from feedback.privacy.kept_lines import erase_lines, refuse_open_batches
from feedback.privacy.removal import (
    BATCH,
    Removal,
    orphans,
    prompt_hashes,
    remove_cases,
    remove_feedback,
    remove_inferences,
)
from feedback.privacy.scrub import remove_aside, scrub_database, scrub_journals
from feedback.privacy.tombstones import Mason, open_mason
from feedback.registry.cycles import cancel_cycle, request_cycle
from feedback.settings import Settings
from feedback.storage.adoption import adopt
from feedback.storage.database import Database
from feedback.storage.exclusive import alone
from feedback.storage.removal_tables import Erasure, Tombstone
from feedback.storage.tables import (
    Case,
    Cycle,
    Feedback,
    Inference,
    Lease,
    ModelVersion,
    PromptGroup,
    RegisteredModel,
)
from feedback.storage.undrained import await_drainers

PATIENCE = 90.0
"""Seconds that running gateways and loops get to let go of what they hold."""
_READ = 500


class TrainedVersion(Struct, frozen=True):
    """A version whose weights were made of what was erased."""

    model: str
    version: str
    state: str
    champion: bool


class Erased(Struct, frozen=True):
    """What was done."""

    id: str
    counts: dict[str, int]
    datasets: list[str]
    versions: list[TrainedVersion]
    cycles: list[str]
    """Retrains without the user's data: queued now, or open already and not yet at their dataset."""


def erase_user(
    database: Database,
    settings: Settings,
    user: str,
    actor: Actor,
    clock: Callable[[], datetime],
    patience: float = PATIENCE,
) -> Erased:
    """Erase a user from the record and everything made of it; run again after a failure, it goes on.

    Raises `BadFieldError` for an empty name, `ConflictError` while a batch holds requests of the user, `UnavailableError` when a running process does not let go in time, and
    `StorageError` when files cannot be written; all of them leave an erasure that can be run again.
    """
    if not user.strip():
        raise BadFieldError("user", "is empty; name the user as your application sends it in `user`")
    directory = settings.directory
    with alone(directory):
        mason = open_mason(directory)
        erasure = _begun(database, mason.pseudonym(user), actor, clock())
        for _ in adopt(database, directory):
            pass
        _drained(database, directory, patience)
        refuse_open_batches(database, directory, user)
        _stop_loops(database, settings, user, clock, patience)
        removal = Removal(
            mason, erasure.id, clock(), _needed_by_others(database, settings, user, mason), False
        )
        _erase_examples(database, directory, user, mason, erasure.id, clock())
        _erase_rows(database, user, removal)
        _erase_examples(database, directory, user, mason, erasure.id, clock())
        with database.session() as session:
            forget_raters(session, user)
            session.commit()
        with database.reading() as session:
            gone = set(session.exec(select(Tombstone.id).where(Tombstone.erasure_id == erasure.id)))
        lines = erase_lines(database, directory, user, gone)
        with database.session() as session:
            add_counts(session, erasure.id, {"file_lines": lines})
            session.commit()
        aside = remove_aside(directory, user, gone)
        scrub_journals(directory, patience)
        scrub_database(database, patience)
        return _finish(database, settings, erasure.id, aside, actor, clock())


def _begun(database: Database, pseudonym: str, actor: Actor, now: datetime) -> Erasure:
    """The erasure of this user that is still open, or a new one."""
    with database.session() as session:
        open_ = select(Erasure).where(Erasure.subject == pseudonym, col(Erasure.finished).is_(None))
        erasure = session.exec(open_).first()
        if erasure is None:
            erasure = Erasure(
                id=new_id(now),
                kind="user",
                subject=pseudonym,
                requested_by=actor.name,
                created=now.timestamp(),
            )
            session.add(erasure)
            session.commit()
        return erasure


def _drained(database: Database, directory: Path, patience: float) -> None:
    missing = await_drainers(database, directory, patience)
    if missing:
        raise UnavailableError(
            f"{missing} records stand in the journals of running gateways and do not come to the database; "
            "`starloop db verify` says more. Run this again when they do"
        )


def _stop_loops(
    database: Database, settings: Settings, user: str, clock: Callable[[], datetime], patience: float
) -> None:
    """Cancel the cycle that a live loop has under way on a model that the user has used, and wait for its end.

    It may hold in memory what is about to go. A cycle that nobody runs holds nothing; a queued one reads afterwards.
    """
    with database.reading() as session:
        models = set(session.exec(select(Inference.model).where(Inference.user == user).distinct()))
        models |= set(
            session.exec(
                select(Inference.model)
                .join(Feedback, col(Feedback.inference_id) == col(Inference.id))
                .where(Feedback.rater == user)
                .distinct()
            )
        )
    deadline = time.monotonic() + patience
    while running := running_cycle(database, models, clock()):
        with database.session() as session:
            with suppress(ConflictError):  # it has just ended
                if not session.get_one(Cycle, running).cancel_requested:
                    cancel_cycle(session, running, clock())
                    note(session, Actor("erase"), "cycle.cancel", running, clock())
            session.commit()
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"cycle {running} is still running and may hold what is to be erased; stop the loop, and run this again"
            )
        time.sleep(0.2)


def running_cycle(database: Database, models: set[str], now: datetime) -> str | None:
    """The cycle that a live loop has under way on one of the models."""
    with database.reading() as session:
        lease = session.get(Lease, "loop")
        if lease is None or lease.expires < now.timestamp():
            return None
        query = select(Cycle.id).where(col(Cycle.model).in_(sorted(models)), Cycle.state == "running")
        return session.exec(query).first()


def _needed_by_others(
    database: Database, settings: Settings, user: str, mason: Mason
) -> Callable[[str], bool]:
    """Which of the user's prompts others have asked too, to the letter: their text is not the user's alone."""
    with database.reading() as session:
        mine = set(session.exec(select(Case.prompt_hash).where(Case.asker == mason.pseudonym(user))))
        query = select(Inference.request, Inference.prompt).where(Inference.user == user)
        for request, prompt in session.exec(query, execution_options={"yield_per": _READ}):
            mine |= prompt_hashes(request, prompt)
        mine = set(_placed(session, mine))
        shared: set[str] = set()
        if mine:
            others = select(Inference.prompt).where(
                or_(col(Inference.user).is_(None), Inference.user != user), col(Inference.prompt).is_not(None)
            )
            for prompt in session.exec(others, execution_options={"yield_per": _READ}):
                if prompt and (key := prompt_hash(prompt)) in mine:
                    shared.add(key)
    shared |= mine & base_prompts(settings)
    return shared.__contains__


def base_prompts(settings: Settings) -> set[str]:
    """The prompts of all base examples that can be read: they came with the models."""
    found: set[str] = set()
    for model in settings.model:
        with suppress(BadInputError):
            found |= {prompt_hash(row.prompt) for row in base_examples(model)}
    return found


def _placed(session: Session, hashes: set[str]) -> Iterator[str]:
    remaining = iter(sorted(hashes))
    while some := list(islice(remaining, _READ)):
        yield from session.exec(select(PromptGroup.prompt_hash).where(col(PromptGroup.prompt_hash).in_(some)))


def _erase_examples(
    database: Database, directory: Path, user: str, mason: Mason, erasure_id: str, now: datetime
) -> None:
    with database.reading() as session:
        found = examples_of(session, user, erasure_id)
    for dataset_id, rows in found.items():
        erase_examples(database, directory, dataset_id, rows, mason, erasure_id, now)


def _erase_rows(database: Database, user: str, removal: Removal) -> None:
    """Until there are none: the user may go on asking while this runs."""
    asked = select(Inference.id).where(Inference.user == user).order_by(col(Inference.id)).limit(BATCH)
    said = select(Feedback.id).where(Feedback.rater == user).order_by(col(Feedback.id)).limit(BATCH)
    outlived = select(Case.id).where(Case.asker == removal.mason.pseudonym(user)).limit(BATCH)
    while _batch(database, removal, lambda session: list(session.exec(asked)), remove_inferences):
        pass
    while _batch(database, removal, lambda session: list(session.exec(outlived)), remove_cases):
        pass
    while _batch(database, removal, lambda session: list(session.exec(said)), remove_feedback):
        pass
    while _batch(database, removal, lambda session: orphans(session, BATCH), remove_feedback):
        pass


def _batch(
    database: Database, removal: Removal, choose: Callable[[Session], list[str]], remove: Callable[..., Any]
) -> bool:
    """Remove one batch and count it, in one transaction; whether there was any."""
    with database.session() as session:
        identifiers = choose(session)
        if not identifiers:
            return False
        counts = remove(session, identifiers, removal)
        add_counts(session, removal.erasure_id, counts)
        session.commit()
    return True


def add_counts(session: Session, erasure_id: str, counts: dict[str, int]) -> None:
    """Add to what an erasure has removed so far."""
    erasure = session.get_one(Erasure, erasure_id)
    names = {*erasure.counts, *(name for name, count in counts.items() if count)}
    erasure.counts = {name: erasure.counts.get(name, 0) + counts.get(name, 0) for name in sorted(names)}
    session.add(erasure)
    session.flush()


def _finish(
    database: Database, settings: Settings, erasure_id: str, aside: int, actor: Actor, now: datetime
) -> Erased:
    """Queue the retrains, close the erasure and write it down, in one transaction."""
    with database.session() as session:
        if aside:
            add_counts(session, erasure_id, {"journal_files": aside})
        erasure = session.get_one(Erasure, erasure_id)
        versions = _trained_on(session, erasure.datasets)
        cycles = [
            cycle
            for model in dict.fromkeys(one.model for one in versions if one.state != "retired")
            if (cycle := _retrain(session, settings, model, now)) is not None
        ]
        erasure.finished = now.timestamp()
        session.add(erasure)
        note(
            session,
            actor,
            "record.erase",
            erasure_id,
            now,
            counts=erasure.counts,
            datasets=erasure.datasets,
            versions=[f"{one.model}@{one.version}" for one in versions],
            cycles=cycles,
        )
        session.commit()
        return Erased(erasure_id, dict(erasure.counts), list(erasure.datasets), versions, cycles)


def _trained_on(session: Session, datasets: list[str]) -> list[TrainedVersion]:
    champions = {row.name: row.champion for row in session.exec(select(RegisteredModel))}
    rows = session.exec(
        select(ModelVersion).where(col(ModelVersion.dataset_id).in_(datasets)).order_by(col(ModelVersion.id))
    )
    return [
        TrainedVersion(row.model, row.number, row.state, champions.get(row.model) == row.number)
        for row in rows
    ]


def _retrain(session: Session, settings: Settings, model: str, now: datetime) -> str | None:
    """A cycle that learns from what is left; None for a model that is no longer configured."""
    configured = settings.model_named(model)
    if configured is None:
        return None
    open_ = select(Cycle.id).where(Cycle.model == model, col(Cycle.state).in_(["queued", "running"]))
    if (waiting := session.exec(open_).first()) is not None:
        return waiting
    cycle = request_cycle(session, model, configured.mode, [], "erase", now)
    facts = {"model": model, "mode": configured.mode, "guards_off": []}
    note(session, Actor("erase"), "cycle.start", cycle.id, now, **facts)
    return cycle.id
