"""Gathers what was said, with group and side, and whom to believe: what curation and the commands about raters start from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlmodel import Session

from feedback.datasets.brigades import Brigade, find_brigades
from feedback.datasets.chat import base_examples, last_user_text
from feedback.datasets.contract import TaskContract
from feedback.datasets.evidence import Heard, place_prompts, placed, placed_base, read_heard
from feedback.datasets.holds import held_feedback, keep_holds, released_feedback
from feedback.datasets.imported import placed_imported, read_imported
from feedback.datasets.neighbours import heed_neighbours
from feedback.datasets.raters import EVERYBODY, Trust, judge_raters
from feedback.datasets.said import BaseExample, Said
from feedback.imports.storing import list_imports
from feedback.privacy.screening import screened
from feedback.registry.versions import get_version
from feedback.settings import Model, Settings
from feedback.storage.database import Database
from feedback.storage.tables import DataImport, DatasetVersion, RegisteredModel


@dataclass(frozen=True)
class Gathered:
    """Answers that somebody spoke about, base examples, and whom to believe how far."""

    said: list[Said]
    base: list[BaseExample]
    """What came with the model, and imports that it is to know already."""
    trust: Trust
    imported: Sequence[BaseExample] = ()
    """Imported answers to learn."""
    imports: Sequence[DataImport] = ()
    personal: Mapping[str, Any] = field(default_factory=dict)
    """What was done about personal data (`privacy.screening`)."""


def gather(
    database: Database,
    settings: Settings,
    model: Model,
    contract: TaskContract,
    now: datetime,
    guards_off: Collection[str] = (),
) -> Gathered:
    """Read the record, place new prompts in their groups, hold brigades, weigh all raters.

    With `raters` among `guards_off` nobody is weighed, and nothing that is held stays so.
    """
    rules = settings.dataset
    with database.reading() as session:
        heard = read_heard(session, model.name)
        theirs = _of_champion(session, model.name)
        imports = [
            one for one in list_imports(session, model.name) if one.use != "tuning" or one.id in theirs
        ]
    examples = base_examples(model)
    learn, old = (
        read_imported(settings.directory, imports, uses, rules.imported)
        for uses in (("learn", "tuning"), ("replay",))
    )
    prompts = [last_user_text(one.messages) for one in heard] + [row.prompt for row in examples]
    prompts += [one.conversation.prompt for one in (*learn, *old)]
    groups = place_prompts(database, prompts, rules)
    share = rules.evaluation_share
    base = placed_base(examples, groups, share) + placed_imported(old, groups, share)
    said, base, imported, personal = screened(
        placed(_given_up(heard), groups, share), base, placed_imported(learn, groups, share), rules.pii
    )
    del groups  # the largest thing besides what was said
    if "raters" in guards_off:
        return Gathered(said, base, EVERYBODY, imported, imports, personal)
    with database.reading() as session:
        released = released_feedback(session, model.name)
    brigades = find_brigades(said, contract, rules.brigade_raters, rules.brigade_hours, released)
    with database.session() as session:
        held = _held(session, model.name, brigades, now)
    trust = judge_raters(said, base, contract, rules.low_reliability, held)
    trust = heed_neighbours(trust, said, base, contract)
    return Gathered(said, base, trust, imported, imports, personal)


def _given_up(heard: list[Heard]) -> Iterator[Heard]:
    """What was heard, each let go once it is taken: a million ratings are not to be held in two forms."""
    heard.reverse()
    while heard:
        yield heard.pop()


def _of_champion(session: Session, model: str) -> set[str]:
    """The imports that the champion learned from: what a fine-tuning taught it, its successors learn too."""
    registered = session.get(RegisteredModel, model)
    if registered is None or registered.champion is None:
        return set()
    dataset_id = get_version(session, model, registered.champion).dataset_id
    dataset = session.get(DatasetVersion, dataset_id) if dataset_id else None
    return set() if dataset is None else {one["id"] for one in dataset.manifest.get("imports", ())}


def _held(session: Session, model: str, brigades: Sequence[Brigade], now: datetime) -> dict[str, str]:
    if brigades:
        keep_holds(session, model, brigades, now)
        session.commit()
    return held_feedback(session, model)
