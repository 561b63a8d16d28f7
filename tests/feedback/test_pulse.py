"""A page's mark: another one whenever something that the page shows has changed, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import Session, col, update

from feedback.ids import new_id
from feedback.registry.training_steps import write_steps
from feedback.reports.pulse import Topic, pulse_of
from feedback.storage.canary_table import Canary
from feedback.storage.database import Database
from feedback.storage.review_tables import ReviewClaim
from feedback.storage.tables import Case, Cycle, Failure, Move

NOW = datetime(2026, 3, 1, tzinfo=UTC)
# said and not drawn: they stand in the names of tests, which must be the same in every process
CYCLE, FAILURE = (f"019ca6b1-dc00-7000-8000-00000000000{number}" for number in (1, 2))


def cycle(**fields: Any) -> Cycle:
    plain: dict[str, Any] = {
        "id": CYCLE,
        "model": "assistant",
        "mode": "propose",
        "state": "running",
        "requested_by": "ann",
        "created": 1.0,
        "updated": 1.0,
    }
    return Cycle(**(plain | fields))


def failure(**fields: Any) -> Failure:
    plain: dict[str, Any] = {"id": FAILURE, "inference_id": new_id(NOW), "model": "assistant", "created": 1.0}
    return Failure(**(plain | {"reasons": []} | fields))


def trial(**fields: Any) -> Canary:
    plain: dict[str, Any] = {"id": new_id(NOW), "model": "assistant", "kind": "canary", "cycle_id": CYCLE}
    numbers: dict[str, Any] = {
        "version": "1.0",
        "against": "base",
        "share": 0.1,
        "created": 1.0,
        "limit": 9.0,
    }
    return Canary(**(plain | numbers | {"salt": "s", "started_by": "ann"} | fields))


def move() -> Move:
    return Move(
        id=new_id(NOW),
        model="assistant",
        position=1,
        kind="promotion",
        to_version="1.0",
        reason="better",
        decided_by="ann",
        cycle_id=CYCLE,
        created=1.0,
    )


def case() -> Case:
    plain: dict[str, Any] = {"model": "assistant", "suite": "golden", "state": "drawn", "messages": []}
    return Case(id=new_id(NOW), prompt_hash="h", group_key="g", created=1.0, **plain)


def claim() -> ReviewClaim:
    return ReviewClaim(failure_id=FAILURE, holder="k:p", expires=NOW.timestamp() + 9)


def trained(session: Session) -> None:
    row = {"step": 1, "steps": 9, "epoch": 1, "epochs": 1, "loss": 1.0}
    write_steps(session, CYCLE, [row], 2.0)


def set_cycle(**fields: Any) -> Callable[[Session], None]:
    return lambda session: session.exec(update(Cycle).where(col(Cycle.id) == CYCLE).values(**fields)) and None


def adding(make: Callable[..., Any], **fields: Any) -> Callable[[Session], None]:
    return lambda session: session.add(make(**fields))


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.session() as opened:
        opened.add_all([cycle(), failure(state="quarantine")])
        opened.flush()
        yield opened


@pytest.mark.parametrize(
    ("kind", "of", "change"),
    [
        ("cycle", CYCLE, set_cycle(steps=[{"step": "train", "progress": {"step": 3, "steps": 9}}])),
        ("cycle", CYCLE, set_cycle(state="done", decision="proposed")),
        ("cycle", CYCLE, set_cycle(cancel_requested=True)),
        ("cycle", CYCLE, trained),
        ("cycle", CYCLE, adding(trial, result={"reason": "too few"})),
        ("cycle", CYCLE, adding(move)),
        ("cycles", "assistant", set_cycle(updated=2.0)),
        ("cycles", "assistant", adding(cycle, id=new_id(NOW))),
        ("overview", "assistant", adding(failure, id=new_id(NOW), state="quarantine")),
        ("overview", "assistant", adding(case)),
        ("review", "assistant", adding(failure, id=new_id(NOW), state="quarantine")),
        ("review", "assistant", adding(claim)),
    ],
)
def test_a_change_that_the_page_shows_is_another_mark(
    session: Session, kind: Any, of: str, change: Callable[[Session], None]
) -> None:
    before = pulse_of(session, Topic(kind, of), NOW)
    assert pulse_of(session, Topic(kind, of), NOW) == before
    change(session)
    session.flush()
    assert pulse_of(session, Topic(kind, of), NOW).mark != before.mark


@pytest.mark.parametrize("kind", ["cycles", "overview", "review"])
def test_what_happens_to_another_model_is_not_told(session: Session, kind: Any) -> None:
    before = pulse_of(session, Topic(kind, "assistant"), NOW)
    session.add_all(
        [cycle(id=new_id(NOW), model="other"), failure(id=new_id(NOW), model="other", state="quarantine")]
    )
    session.flush()
    assert pulse_of(session, Topic(kind, "assistant"), NOW) == before


def test_review_has_its_figures_and_a_claim_that_ran_out_is_none(session: Session) -> None:
    session.add(ReviewClaim(failure_id=FAILURE, holder="k:p", expires=NOW.timestamp() - 1))
    session.flush()
    assert pulse_of(session, Topic("review", "assistant"), NOW).facts == {"waiting": 1, "held": 0}
