"""A whole cycle, and every way in which it ends without promoting."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import select

from feedback.datasets.files import read_rows
from feedback.datasets.groups import prompt_hash
from feedback.errors import StorageError, UnavailableError, UnsoundAdapterError
from feedback.registry.cycles import cancel_cycle
from feedback.registry.models import get_model, move_champion
from feedback.registry.versions import get_version, mark_version, reserve_version
from feedback.storage.database import Database
from feedback.storage.tables import Case, Cycle, DatasetVersion, Move
from tests.trainer.world import MODEL, World, promising, prompt, talented, truth
from trainer.cycle import run_cycle
from trainer.record import CycleRecord, LoopStoppedError
from trainer.steps import STEPS
from trainer.turns import next_turn


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return promising(sqlite_database, tmp_path)


def run(world: World, cycle_id: str) -> Cycle:
    return run_cycle(world.workshop(), world.record(cycle_id), pauses=())


def champion(world: World) -> str | None:
    with world.database.reading() as session:
        return get_model(session, MODEL).champion


def state_of(world: World, number: str) -> str:
    with world.database.reading() as session:
        return get_version(session, MODEL, number).state


def test_a_better_version_is_promoted_and_every_step_says_what_it_did(world: World) -> None:
    cycle = run(world, world.request())
    assert (cycle.state, cycle.decision, cycle.version) == ("done", "promoted", "1.0")
    assert cycle.reason is not None and "50 fixes and 0 regressions in 100 cases" in cycle.reason
    assert champion(world) == "1.0"
    assert [entry["step"] for entry in cycle.steps] == list(STEPS)
    assert all(entry["ended"] and entry["outcome"] for entry in cycle.steps)
    assert cycle.result is not None
    assert cycle.result["gate"]["decision"] == "promoted"
    assert cycle.result["versions"]["base"]["golden"]["accuracy"] == 0.5
    assert cycle.result["versions"]["1.0"]["golden"]["accuracy"] == 1.0
    promoted = world.server.promotions
    assert [(one["version"], one["cycle_id"]) for one in promoted] == [("1.0", cycle.id)]


def test_a_cycle_keeps_what_the_challenger_gains_by_each_figure(world: World) -> None:
    evaluation = msgspec.structs.replace(world.settings.evaluation, samples=3)
    world.settings = msgspec.structs.replace(world.settings, evaluation=evaluation)
    result = run(world, world.request()).result
    assert result is not None and result["consistency"] == {"base": 1.0, "1.0": 1.0}
    golden = result["improvements"]["golden"]
    assert golden.keys() == {"valid_format", "similarity", "token_f1", "rouge_l", "consistency"}
    before, after = (result["versions"][number]["golden"]["wording"] for number in ("base", "1.0"))
    for metric in ("similarity", "token_f1", "rouge_l"):
        assert golden[metric]["difference"] == pytest.approx(after[metric] - before[metric])
        assert 0 < golden[metric]["interval"][0] < golden[metric]["difference"]
    assert (golden["consistency"]["n"], golden["consistency"]["difference"]) == (100, 0.0)


def test_a_second_cycle_compares_with_the_champion_and_asks_nothing_that_is_known(world: World) -> None:
    run(world, world.request())
    world.users_correct(200, first=1000)
    world.server.asked.clear()
    cycle = run(world, world.request())
    assert cycle.version == "1.1"
    assert cycle.result is not None and cycle.result["champion"] == "1.0"
    assert set(cycle.result["versions"]) == {"base", "1.0", "1.1"}
    confirmed = {prompt("old", 10_000 + n) for n in range(50)}
    base_asked = [text for number, text in world.server.asked if number == "base" and text in confirmed]
    assert base_asked == []
    assert cycle.decision == "inconclusive"  # no better than 1.0 on the golden set


def test_reporting_stops_after_the_gate(world: World) -> None:
    cycle = run(world, world.request(mode="report"))
    assert (cycle.decision, champion(world)) == ("reported", None)
    assert cycle.result is not None and cycle.result["gate"]["decision"] == "promoted"
    assert "nothing was moved; the gate said promoted" in (cycle.reason or "")


def test_proposing_leaves_promotion_to_a_person(world: World) -> None:
    cycle = run(world, world.request(mode="propose"))
    assert (cycle.decision, champion(world), world.server.promotions) == ("proposed", None, [])
    assert state_of(world, "1.0") == "registered"


def test_a_worse_version_is_rejected_and_marked_so(world: World) -> None:
    world.learns = talented("new")
    cycle = run(world, world.request())
    assert (cycle.state, cycle.decision, champion(world)) == ("done", "rejected", None)
    assert "regression suite" in (cycle.reason or "") and "lost more than 3 points" in (cycle.reason or "")
    assert state_of(world, "1.0") == "rejected"


def test_a_version_that_answers_nothing_is_rejected(world: World) -> None:
    world.learns = lambda _: ""
    cycle = run(world, world.request())
    assert cycle.decision == "rejected"
    assert "format: 0.0%" in (cycle.reason or "")


def test_an_equal_version_is_inconclusive_and_stays_registered(world: World) -> None:
    world.learns = talented("old")
    cycle = run(world, world.request())
    assert (cycle.decision, champion(world)) == ("inconclusive", None)
    assert "No number of cases would decide" in (cycle.reason or "")
    assert state_of(world, "1.0") == "registered"


def test_without_a_golden_set_auto_acts_as_propose(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, tmp_path)
    world.users_correct(200)
    cycle = run(world, world.request(mode="auto"))
    assert (cycle.decision, champion(world)) == ("proposed", None)
    assert "there is no golden set, so a person decides" in (cycle.reason or "")


def test_too_little_data_skips_before_anything_is_trained(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, tmp_path)
    world.users_correct(10)
    cycle = run(world, world.request())
    assert (cycle.state, cycle.decision, cycle.dataset_id) == ("done", "skipped", None)
    assert "at least 20 are needed" in (cycle.reason or "")
    assert world.trainings == 0


def test_a_few_raters_cannot_make_a_dataset_unless_the_guard_is_off_by_name(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    world.users_correct(200, raters=3)
    assert run(world, world.request()).decision == "skipped"
    assert run(world, world.request(guards_off=("raters",))).decision != "skipped"


def test_cases_that_overlap_training_data_are_named_and_refused(world: World) -> None:
    workshop, cycle_id = world.workshop(), world.request()
    record = world.record(cycle_id)
    for name in ("triage", "dataset"):
        record.begin(name)
        STEPS[name](workshop, record)
    taught = _a_training_prompt(world, record)
    with world.database.session() as session:
        session.add(
            Case(
                id="case-that-was-taught",
                model=MODEL,
                suite="golden",
                state="confirmed",
                prompt_hash=prompt_hash(taught),
                group_key=prompt_hash(taught),
                messages=[{"role": "user", "content": taught.upper()}],
                answer=truth(taught),
                created=0.0,
            )
        )
        session.commit()
    cycle = run(world, cycle_id)
    assert (cycle.decision, champion(world)) == ("skipped", None)
    assert "golden case case-that-was-taught" in (cycle.reason or "")


def test_a_champion_that_moved_meanwhile_is_left_where_it_is(world: World) -> None:
    record = world.record(world.request())
    workshop = world.workshop()
    for name in list(STEPS)[:-1]:
        record.begin(name)
        STEPS[name](workshop, record)
    with world.database.session() as session:
        base = world.settings.model[0].base
        reserve_version(session, MODEL, None, None, base, "revision", "other", "by hand", {}, world.clock())
        mark_version(session, MODEL, "1.1", "registered")
        move_champion(session, MODEL, "1.1", "promotion", "by hand", "a person", None, world.clock())
        session.commit()
    cycle = run(world, record.row.id)
    assert (cycle.decision, champion(world)) == ("inconclusive", "1.1")
    assert "moved from base to 1.1" in (cycle.reason or "")


@pytest.mark.parametrize(
    "error",
    [UnsoundAdapterError("a tensor is not finite"), StorageError("disk full"), RuntimeError("a defect")],
)
def test_a_training_that_fails_is_told_with_its_reason(world: World, error: Exception) -> None:
    def fail(*_: Any) -> Any:
        raise error

    world.make_version = fail  # type: ignore[method-assign]
    cycle = run(world, world.request())
    assert (cycle.state, cycle.decision, champion(world)) == ("failed", None, None)
    assert str(error) in (cycle.reason or "") and (cycle.reason or "").startswith("train: ")
    assert cycle.steps[-1]["outcome"] == cycle.reason


def test_a_server_that_stays_away_fails_the_cycle_and_the_next_one_goes_on_with_its_answers(
    world: World,
) -> None:
    world.server.away = True
    cycle = run(world, world.request())
    assert cycle.state == "failed" and "did not answer" in (cycle.reason or "")
    world.server.away = False
    assert run(world, world.request()).decision == "promoted"


def test_what_is_away_for_a_moment_is_tried_again(world: World) -> None:
    real, attempts = world.make_version, 0

    def flaky(*arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise UnavailableError("the database is away")
        return real(*arguments)

    world.make_version = flaky  # type: ignore[method-assign]
    cycle = run_cycle(world.workshop(), world.record(world.request()), pauses=(0, 0))
    assert (cycle.decision, attempts) == ("promoted", 3)


def test_a_cycle_is_cancelled_during_training(world: World) -> None:
    cycle_id = world.request()
    real = world.make_version

    def cancelled(cycle: Cycle, on_progress: Any) -> Any:
        with world.database.session() as session:
            cancel_cycle(session, cycle_id, world.clock())
            session.commit()
        return real(cycle, on_progress)

    world.make_version = cancelled  # type: ignore[method-assign]
    cycle = run(world, cycle_id)
    assert (cycle.state, cycle.decision) == ("cancelled", None)
    assert cycle.reason == "cancelled on request during train"
    assert world.trainings == 0


def test_a_cycle_cancelled_between_two_steps_keeps_what_the_first_did(world: World) -> None:
    record = world.record(world.request())
    record.begin("triage")
    record.end("3 failure cases are new or changed")
    with world.database.session() as session:
        cancel_cycle(session, record.row.id, world.clock())
        session.commit()
    cycle = run_cycle(world.workshop(), record)
    assert (cycle.state, cycle.reason) == ("cancelled", "cancelled on request after triage")
    (only,) = cycle.steps
    assert only["outcome"] == "3 failure cases are new or changed"


def test_progress_goes_on_being_shown_where_the_clock_was_set_back(world: World) -> None:
    record = world.record(world.request())
    record.begin("train")
    record.progress(step=1)
    record.progress(step=2)  # too soon
    assert record.row.steps[-1]["progress"] == {"step": 1}
    world.now -= timedelta(hours=5)
    record.progress(step=500)
    assert record.row.steps[-1]["progress"] == {"step": 500}


def test_a_cancelled_training_leaves_no_checkpoints_and_a_stopped_one_keeps_them(world: World) -> None:
    cycle_id = world.request()
    kept = world.directory / "runs" / cycle_id / "checkpoints"
    kept.mkdir(parents=True)
    real = world.make_version

    def stop(cycle: Cycle, on_progress: Any) -> Any:
        world.stopping.set()
        return real(cycle, on_progress)

    world.make_version = stop  # type: ignore[method-assign]
    with pytest.raises(LoopStoppedError):
        run(world, cycle_id)
    assert kept.exists()
    world.stopping.clear()

    def cancel(cycle: Cycle, on_progress: Any) -> Any:
        with world.database.session() as session:
            cancel_cycle(session, cycle_id, world.clock())
            session.commit()
        return real(cycle, on_progress)

    world.make_version = cancel  # type: ignore[method-assign]
    assert run(world, cycle_id).state == "cancelled"
    assert not kept.exists()


def test_a_stopping_loop_leaves_the_cycle_to_be_gone_on_with(world: World) -> None:
    cycle_id = world.request()
    record = world.record(cycle_id)
    world.stopping.set()
    with pytest.raises(LoopStoppedError):
        run_cycle(world.workshop(), record)
    world.stopping.clear()
    assert run(world, cycle_id).decision == "promoted"


def test_an_interrupted_cycle_comes_before_one_that_waits(world: World) -> None:
    first = world.request()
    with world.database.session() as session:
        session.add(
            Cycle(
                id="0",
                model="another",
                mode="auto",
                requested_by="test",
                created=0,
                updated=0,
                state="queued",
            )
        )
        session.commit()
    world.record(first).begin("triage")
    with world.database.reading() as session:
        turn = next_turn(session, None, world.clock())
        assert turn is not None and turn.id == first


WRITES = 16
"""How often a cycle writes its row on this path."""


class KilledError(BaseException):
    """What `kill -9` looks like from inside."""


class DoomedRecord(CycleRecord):
    """Dies at its n-th write, just before it or just after it."""

    def doom(self, write: int, before: bool) -> DoomedRecord:
        self.left, self.before = write, before
        return self

    def save(self, **fields: Any) -> None:
        self.left -= 1
        if self.left == 0 and self.before:
            raise KilledError
        super().save(**fields)
        if self.left == 0:
            raise KilledError


def _doomed(world: World, cycle_id: str, write: int, before: bool) -> DoomedRecord:
    record = world.record(cycle_id)
    record.__class__ = DoomedRecord
    assert isinstance(record, DoomedRecord)
    return record.doom(write, before)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, WRITES + 1))
def test_a_cycle_killed_at_any_write_resumes_with_the_same_dataset_and_at_most_one_promotion(
    world: World, write: int, before: bool
) -> None:
    cycle_id = world.request()
    try:
        run_cycle(world.workshop(), _doomed(world, cycle_id, write, before), pauses=())
    except KilledError:
        pass
    else:
        pytest.fail("the cycle has fewer writes than this")
    with world.database.reading() as session:
        frozen = [(row.id, row.content_hash) for row in session.exec(select(DatasetVersion))]
        row = session.get_one(Cycle, cycle_id)
    if row.state == "done":
        assert not before  # killed after the last write of all
    else:
        row = run(world, cycle_id)
    assert (row.state, row.decision, row.version) == ("done", "promoted", "1.0")
    assert row.result is not None and "looks" not in [one["about"] for one in row.result["gate"]["findings"]]
    with world.database.reading() as session:
        datasets = [(one.id, one.content_hash) for one in session.exec(select(DatasetVersion))]
        assert len(datasets) == 1 and row.dataset_id == datasets[0][0]
        assert frozen in ([], datasets)
        assert len(session.exec(select(Move)).all()) == 1
    assert len(world.server.promotions) == 1
    assert world.trainings == 1


def test_no_write_was_left_out_of_the_killing(world: World) -> None:
    cycle = run_cycle(world.workshop(), _doomed(world, world.request(), WRITES + 1, before=True), pauses=())
    assert cycle.decision == "promoted"


def test_answers_that_came_in_before_a_kill_are_not_asked_for_again(world: World) -> None:
    cycle_id = world.request()
    calls = 0
    real = world.server.versions["base"]

    def dies_late(text: str) -> str:
        nonlocal calls
        calls += 1
        if calls == 150:
            raise KilledError
        return real(text)

    world.server.versions["base"] = dies_late
    with pytest.raises(KilledError):
        run(world, cycle_id)
    world.server.versions["base"] = real
    known = len(world.server.asked)
    assert run(world, cycle_id).decision == "promoted"
    again = [text for number, text in world.server.asked[known:] if number == "base"]
    assert len(again) < 600


def _a_training_prompt(world: World, record: CycleRecord) -> str:
    assert record.row.dataset_id is not None
    rows = read_rows(world.directory, record.row.dataset_id, "train")
    return str(next(rows)["messages"][-1]["content"])
