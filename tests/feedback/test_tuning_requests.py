"""The table of fine-tunings, on both kinds of database: asked for, listed by metadata, steered, told of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.errors import ConflictError, NotFoundError
from feedback.files.stored import Viewer
from feedback.ids import new_id
from feedback.registry.models import ensure_models
from feedback.registry.training_steps import write_steps
from feedback.settings import Model, Settings
from feedback.storage.database import Database
from feedback.storage.file_table import StoredFile
from feedback.storage.tables import Tuning
from feedback.tuning.events import list_events
from feedback.tuning.progress import estimated_finish
from feedback.tuning.requests import (
    Looker,
    NewTuning,
    alias_of,
    cancel_tuning,
    get_tuning,
    list_tunings,
    pause_tuning,
    request_tuning,
    resume_tuning,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ANN, BOB = Actor("ann", "key-of-ann"), Actor("bob", "key-of-bob")
EVERYBODY = Looker(Viewer(None, everything=True))


class Desk:
    """Where fine-tunings are asked for, one a minute."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = NOW
        with database.session() as session:
            ensure_models(session, Settings(model=[Model(name="assistant"), Model(name="other")]), NOW)
            row = StoredFile(
                id=new_id(NOW), name="a", purpose="fine-tune", bytes=1, hash="0", created=0.0, owner="ann"
            )
            self.file = f"file-{row.id}"
            session.add(row)
            session.commit()

    def ask(self, actor: Actor = ANN, model: str = "assistant", **fields: Any) -> str:
        self.now += timedelta(minutes=1)
        plain: dict[str, Any] = {"training_file": self.file, "validation_file": None, "method": "supervised"}
        plain |= {"hyperparameters": {"n_epochs": 3}, "seed": 2**31 - 1, "suffix": "", "metadata": None}
        asked = NewTuning(**(plain | {"model": model} | fields))
        with self.database.session() as session:
            row = request_tuning(session, asked, EVERYBODY, actor, self.now)
            session.commit()
        return row.id

    def listed(self, looker: Looker = EVERYBODY, **options: Any) -> list[str]:
        with self.database.reading() as session:
            return [row.id for row in list_tunings(session, looker, 100, **options)[0]]

    def steer(self, how: Any, identifier: str, looker: Looker = EVERYBODY) -> str:
        with self.database.session() as session:
            row: Tuning = how(session, f"ftjob-{identifier}", looker, ANN, self.now)
            session.commit()
            return row.state

    def change(self, identifier: str, **fields: Any) -> None:
        with self.database.session() as session:
            row = session.exec(select(Tuning).where(Tuning.id == identifier)).one()
            for name, value in fields.items():
                setattr(row, name, value)
            session.add(row)
            session.commit()


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


def test_metadata_is_asked_for_by_pair_or_by_none(desk: Desk) -> None:
    quoted = {"team": "a", 'it\'s "it"': "ü, {}"}
    first, second, third = desk.ask(metadata=quoted), desk.ask(metadata={"team": "b"}), desk.ask()
    assert desk.listed() == [third, second, first]
    assert desk.listed(metadata={"team": "a"}) == [first]
    assert desk.listed(metadata={"team": "b", "other": "x"}) == []
    assert desk.listed(without_metadata=True) == [third]
    assert desk.listed(after=f"ftjob-{second}") == [first]
    with desk.database.reading() as session:
        row = get_tuning(session, f"ftjob-{first}", EVERYBODY)
    assert (row.metadata_, row.hyperparameters, row.seed) == (quoted, {"n_epochs": 3}, 2**31 - 1)
    assert (row.error, row.alias, row.result_file) == (None, None, None)


def test_each_sees_their_own_of_their_models(desk: Desk) -> None:
    mine, theirs, other = desk.ask(), desk.ask(BOB), desk.ask(model="other")
    ann = Looker(Viewer(ANN.key_id))
    assert desk.listed(ann) == [other, mine]
    assert desk.listed(Looker(Viewer(ANN.key_id), ["assistant"])) == [mine]
    with desk.database.reading() as session, pytest.raises(NotFoundError):
        get_tuning(session, f"ftjob-{theirs}", ann)


def test_it_is_paused_resumed_and_cancelled_and_says_so(desk: Desk) -> None:
    one = desk.ask()
    assert desk.steer(pause_tuning, one) == "paused"
    assert desk.steer(resume_tuning, one) == "validating_files"
    desk.change(one, state="running", training_import="0")
    assert desk.steer(pause_tuning, one) == "running"
    with desk.database.reading() as session:
        assert get_tuning(session, f"ftjob-{one}", EVERYBODY).wanted == "pause"
    assert desk.steer(resume_tuning, one) == "running"
    desk.change(one, state="queued")
    assert desk.steer(cancel_tuning, one) == "cancelled"
    for steer in (cancel_tuning, pause_tuning, resume_tuning):
        with pytest.raises(ConflictError, match="cancelled"):
            desk.steer(steer, one)
    with desk.database.reading() as session:
        row = get_tuning(session, f"ftjob-{one}", EVERYBODY)
        events, more = list_events(session, row, 3, None)
        assert more and [event.text for event in events] == [
            "Cancelled by ann",
            "Resumed by ann",
            "Asked to pause by ann",
        ]
        rest, more = list_events(session, row, 10, events[-1].id)
        assert not more and [event.text for event in rest][-1].startswith("Asked for by ann")


def test_a_second_name_is_given_once(desk: Desk) -> None:
    one, two = desk.ask(), desk.ask()
    with desk.database.reading() as session:
        alias = alias_of(get_tuning(session, f"ftjob-{one}", EVERYBODY))
    desk.change(one, alias=alias, state="succeeded")
    with pytest.raises(Exception, match=r"(?i)unique"):
        desk.change(two, alias=alias)


def test_steps_are_events_and_their_pace_says_when_it_will_be_done(desk: Desk) -> None:
    one = desk.ask()

    def write(first: int, last: int, at: float) -> None:
        rows = [
            {"step": step, "steps": 100, "epoch": 1, "epochs": 1, "loss": 1.0, "noticed": []}
            for step in range(first, last + 1)
        ]
        with desk.database.session() as session:
            write_steps(session, one, rows, at)
            session.commit()

    def told() -> float | None:
        with desk.database.reading() as session:
            return estimated_finish(session, get_tuning(session, f"ftjob-{one}", EVERYBODY))

    desk.change(one, state="running")
    assert told() is None
    write(1, 20, 1000.0)
    assert told() is None, "one lot tells no pace"
    write(21, 30, 5000.0)
    assert told() is None, "a pause lies between them"
    write(31, 40, 5010.0)
    assert told() == pytest.approx(5070)
    with desk.database.reading() as session:
        events, _ = list_events(session, get_tuning(session, f"ftjob-{one}", EVERYBODY), 4, None)
    assert [event.step.step for event in events if event.step] == [40, 39, 38]
    desk.change(one, state="paused")
    assert told() is None
