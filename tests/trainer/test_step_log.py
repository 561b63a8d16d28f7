"""Steps reach the record a few seconds at a time, once each, and a database that is away holds nothing up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlmodel import Session

from feedback.errors import UnavailableError
from feedback.registry.training_steps import all_steps
from feedback.storage.database import Database
from trainer.step_log import StepLog
from trainer.training import Progress
from trainer.training_lines import TrainingLines
from trainer.training_table import training_text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(step: int, **figures: object) -> Progress:
    return Progress(step=step, steps=9, epoch=1, epochs=1, loss=2.0, **figures)  # type: ignore[arg-type]


def recorded(database: Database) -> list[int]:
    with database.reading() as session:
        return [row.step for row in all_steps(session, "run")]


def test_steps_are_written_every_two_seconds_and_at_the_end(sqlite_database: Database) -> None:
    clock = Clock()
    log = StepLog(sqlite_database, "run", lambda: datetime.now(UTC), clock)
    log(Progress())
    for step in range(1, 6):
        same = progress(step)
        log(same)
        log(same)
        clock.now += 0.5
    assert recorded(sqlite_database) == [1, 2, 3, 4, 5]
    log(progress(6))
    assert recorded(sqlite_database) == [1, 2, 3, 4, 5]
    log.flush()
    assert recorded(sqlite_database) == [1, 2, 3, 4, 5, 6]


def test_what_a_database_that_is_away_does_not_take_waits_for_its_return(sqlite_database: Database) -> None:
    clock, away = Clock(), True

    class Leaving(Database):
        @contextmanager
        def session(self) -> Iterator[Session]:
            if away:
                raise UnavailableError("the database is away")
            with sqlite_database.session() as session:
                yield session

    log = StepLog(Leaving.__new__(Leaving), "run", lambda: datetime.now(UTC), clock)
    for step in range(1, 4):
        clock.now += 3
        log(progress(step))
    assert recorded(sqlite_database) == []
    away = False
    clock.now += 3
    log(progress(4))
    assert recorded(sqlite_database) == [1, 2, 3, 4]


def test_a_training_is_shown_by_epoch_with_what_was_noticed(sqlite_database: Database) -> None:
    log = StepLog(sqlite_database, "run", lambda: datetime.now(UTC))
    log(Progress(step=0, steps=2, epoch=0, epochs=1, validation_loss=5.0, validation_old=4.5))
    log(progress(1))
    log(
        progress(
            2,
            validation_loss=1.5,
            learning_rate=1e-3,
            gradient_norm=0.5,
            tokens_per_second=1234.0,
            memory_bytes=300 << 20,
            noticed=["forgetting: more replay"],
        )
    )
    log.flush()
    with sqlite_database.reading() as session:
        text = training_text(all_steps(session, "run"))
    assert text == [
        "epoch  steps   train  validation  new     old",
        "    0      -       -      5.0000    -  4.5000",
        "    1      2  2.0000      1.5000    -       -",
        "step 2 of 9, learning rate 1.00e-03, gradient norm 0.500, 1,234 tokens/s, 300 MiB",
        "noticed:",
        "  step 2: forgetting: more replay",
    ]


def test_what_was_noticed_is_said_at_once_and_once() -> None:
    said: list[str] = []
    lines = TrainingLines(said.append, lambda: 0.0)
    lines(progress(1))
    for _ in range(3):
        lines(progress(2, noticed=["out of memory at step 2"]))
    assert said == ["step 1 of 9, epoch 1/1, loss 2.000", "out of memory at step 2"]
