"""The record of how a training went: written in pieces, read in order, summed up by epoch."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from feedback.errors import BadFieldError, NotFoundError
from feedback.registry.training_steps import all_steps, epochs_of, read_steps, run_of, write_steps
from feedback.registry.versions import reserve_version
from feedback.storage.database import Database
from feedback.storage.tables import RegisteredModel

NOW = datetime(2026, 3, 1)


def step(number: int, **figures: Any) -> dict[str, Any]:
    epoch = (number + 2) // 3
    plain = {"steps": 9, "epoch": epoch, "epochs": 3, "loss": 3.0 - number / 10 if number else None}
    return {"step": number, "noticed": [], **plain, **figures}


def write(database: Database, *rows: dict[str, Any], run: str = "run-1") -> None:
    with database.session() as session:
        write_steps(session, run, rows, NOW.timestamp())
        session.commit()


def test_steps_are_read_in_order_and_in_pages(database: Database) -> None:
    write(database, *map(step, range(4)))
    write(database, *map(step, range(4, 10)))
    write(database, step(1), run="another")
    with database.reading() as session:
        first = read_steps(session, "run-1", 6, None)
        rest = read_steps(session, "run-1", 6, first.next_cursor)
    assert [row.step for row in first.items + rest.items] == list(range(10))
    assert (first.next_cursor, rest.next_cursor) == ("5", None)


@pytest.mark.parametrize("cursor", ["x", "-1", "9" * 30, "٣"])
def test_what_is_no_cursor_is_refused(database: Database, cursor: str) -> None:
    with database.reading() as session, pytest.raises(BadFieldError, match="next_cursor"):
        read_steps(session, "run-1", 5, cursor)


def test_a_training_that_goes_back_replaces_what_it_had_written_after_that(database: Database) -> None:
    write(database, *map(step, range(8)))
    write(database, step(5, loss=9.0), step(6, loss=9.5), step(5, loss=1.0))
    with database.reading() as session:
        rows = {row.step: row.loss for row in all_steps(session, "run-1")}
    assert list(rows) == [0, 1, 2, 3, 4, 5, 6]
    assert (rows[4], rows[5], rows[6]) == (pytest.approx(2.6), 1.0, 9.5)


def test_an_epoch_has_the_mean_of_its_steps_and_its_last_look_at_validation(database: Database) -> None:
    write(
        database,
        step(0, validation_loss=5.0, validation_old=4.0),
        step(1),
        step(2, validation_loss=2.5),
        step(3, validation_loss=2.0, validation_new=1.0, validation_old=3.0),
        step(4),
    )
    with database.reading() as session:
        epochs = epochs_of(all_steps(session, "run-1"))
    assert [(one.epoch, one.steps, one.train, one.validation) for one in epochs] == [
        (0, 0, None, 5.0),
        (1, 3, 2.8, 2.0),
        (2, 1, 2.6, None),
    ]
    assert (epochs[1].validation_new, epochs[1].validation_old) == (1.0, 3.0)


def test_a_version_leads_to_its_run(database: Database) -> None:
    with database.session() as session:
        session.add(RegisteredModel(name="assistant", base="b", created=0.0))
        session.flush()
        for cycle, facts in (("cycle-1", {}), (None, {"run": "train-abc"}), (None, {})):
            reserve_version(session, "assistant", cycle, "d", "b", "r", f"{cycle}{facts}", "n", facts, NOW)
        session.commit()
    with database.reading() as session:
        assert [run_of(session, "assistant", number) for number in ("1.0", "1.1")] == ["cycle-1", "train-abc"]
        with pytest.raises(NotFoundError, match="trained elsewhere"):
            run_of(session, "assistant", "1.2")
