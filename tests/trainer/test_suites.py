"""Which cases judge: always the same while a suite does not change, whatever their age or order."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from feedback.datasets.cases import confirm_case
from feedback.datasets.contract import TaskContract
from feedback.storage.database import Database
from tests.trainer.world import MODEL, World
from trainer.findings import critical_finding
from trainer.gateway import Answer
from trainer.scoring import outcomes
from trainer.suites import Suites, collect


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    made = World(sqlite_database, tmp_path)
    made.people_confirm(old=30, new=30)
    return made


def suites(world: World, limit: int) -> Suites:
    evaluation = msgspec.structs.replace(world.settings.evaluation, suite_limit=limit)
    settings = msgspec.structs.replace(world.settings, evaluation=evaluation)
    with world.database.reading() as session:
        return collect(session, MODEL, settings)


def test_a_bounded_suite_is_always_the_same_cases_and_a_larger_bound_keeps_them(world: World) -> None:
    few, many = suites(world, 10).golden, suites(world, 25).golden
    assert (len(few), len(many)) == (10, 25)
    assert suites(world, 10).golden == few == many[:10]


def test_a_bounded_suite_is_drawn_from_all_ages(world: World) -> None:
    kinds = [case.messages[-1]["content"].split()[0] for case in suites(world, 30).golden]
    assert 6 <= kinds.count("old") <= 24, "neither those written first nor those written last"


def test_a_critical_case_is_asked_however_many_others_there_are(world: World) -> None:
    last = suites(world, 1000).golden[-1]
    contract = TaskContract.from_settings(world.settings.model[0])
    with world.database.session() as session:
        confirm_case(session, last.id, None, "ada", world.clock(), contract, critical=True)
        session.commit()
    found = suites(world, 10).golden
    assert [case.id for case in found if case.critical] == [last.id] and len(found) == 10
    ours = {case.id: Answer(case.answer, "stop", 1, 1.0) for case in found}
    theirs = ours | {last.id: Answer("", "stop", 0, 1.0)}
    assert critical_finding(outcomes(found, ours, theirs, contract)).verdict == "against"


def test_every_case_stands_in_the_suite_it_was_made_for(world: World) -> None:
    world.people_confirm(old=0, new=3, suite="regression")
    found = suites(world, 1000)
    assert {name: len(cases) for name, cases in found.named().items()} == {
        "golden": 60,
        "regression": 3,
        "holdout": 0,
    }
    assert len(found.every()) == 63
