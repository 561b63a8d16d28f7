"""Erasing one inference, with all that was said about it and made of it; versions that were trained on it stay.

It goes as a user's data goes (`erasure`): dataset versions lose their rows, the record its own, each with its tombstone.
Killed anywhere it may be asked for again: what it had done it finds done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.errors import ConflictError, NotFoundError, UnavailableError
from feedback.ids import new_id
from feedback.privacy.erasure import add_counts, base_prompts, running_cycle
from feedback.privacy.examples import erase_examples
from feedback.privacy.removal import Removal, remove_inferences
from feedback.privacy.scrub import scrub_database, scrub_journals
from feedback.privacy.tombstones import open_mason
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.exclusive import alone
from feedback.storage.removal_tables import Erasure
from feedback.storage.tables import Example, Inference

_PATIENCE = 5.0


def erase_inference(
    database: Database, settings: Settings, identifier: str, actor: Actor, now: datetime
) -> None:
    """Erase the inference with this bare id.

    Raises `NotFoundError`, and `ConflictError` while a cycle that may hold it runs, or another removal.
    """
    directory = settings.directory
    with alone(directory):
        with database.reading() as session:
            row = session.get(Inference, identifier)
            if row is None:
                raise NotFoundError(f"there is no inference {identifier}")
            keeps = _needed_by_others(session, settings, row)
            examples = session.exec(
                select(Example).where(Example.inference_id == identifier, col(Example.erased).is_(None))
            ).all()
        running = running_cycle(database, {row.model}, now)
        if running is not None:
            raise ConflictError(
                f"cycle {running} of {row.model} is running and may hold it; delete it when that has ended, or cancel it "
                f"with POST /v1/cycles/{running}/cancel"
            )
        mason = open_mason(directory)
        erasure = Erasure(
            id=new_id(now),
            kind="inference",
            subject=identifier,
            requested_by=actor.name,
            created=now.timestamp(),
        )
        with database.session() as session:
            session.add(erasure)
            session.commit()
            erasure_id = erasure.id
        for dataset in sorted({one.dataset_id for one in examples}):
            rows = [one for one in examples if one.dataset_id == dataset]
            erase_examples(database, directory, dataset, rows, mason, erasure_id, now)
        with database.session() as session:
            counts = remove_inferences(
                session, [identifier], Removal(mason, erasure_id, now, keeps, keeps_cases=False)
            )
            add_counts(session, erasure_id, counts)
            done = session.get_one(Erasure, erasure_id)
            done.finished = now.timestamp()
            session.add(done)
            note(
                session,
                actor,
                "completion.delete",
                identifier,
                now,
                counts=done.counts,
                datasets=done.datasets,
            )
            session.commit()
        with suppress(
            UnavailableError
        ):  # files that are let go of later; a tombstone keeps it from coming back
            scrub_journals(directory, _PATIENCE)
        with suppress(UnavailableError):  # deleted pages are blank; the log is cut another time
            scrub_database(database, _PATIENCE, rewrite=False)


def _needed_by_others(session: Session, settings: Settings, row: Inference) -> Callable[[str], bool]:
    """Which prompts keep their text: base examples', and this one's where somebody else asked the same to the letter."""
    others = select(Inference.id).where(Inference.prompt == row.prompt, Inference.id != row.id).limit(1)
    shared = row.prompt is not None and session.exec(others).first() is not None
    base = base_prompts(settings)
    return lambda key: shared or key in base
