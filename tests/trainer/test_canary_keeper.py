"""Canaries and watches in the record: what users got and said decides, and a loop may die at any moment of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session, col, select

from feedback.access.audit import Actor
from feedback.errors import ConflictError, StarloopError
from feedback.ids import new_id
from feedback.registry.arms import Arms, unit_of
from feedback.registry.canaries import begin_canary, end_canary, open_canaries
from feedback.registry.cycles import cancel_cycle, request_cycle
from feedback.registry.models import get_model, move_champion
from feedback.registry.retirements import begin_retirement
from feedback.registry.snapshot import load_snapshot
from feedback.registry.versions import get_version
from feedback.settings import Canary as CanarySettings
from feedback.storage.database import Database
from feedback.storage.tables import Canary, Cycle, Feedback, Inference, RaterHold
from tests.trainer.world import MODEL, World
from trainer.canary_keeper import CanaryKeeper
from trainer.cycle import run_cycle
from trainer.lease import LeaseLostError, LoopLease
from trainer.record import CycleRecord

ANSWER = "colour unknown"


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    """The gate would promote 1.0, and half of the users are to compare it with the base first."""
    settings = CanarySettings(share=0.5, holdback=0.2, hours=1.0, watch_hours=2.0)
    made = World(sqlite_database, tmp_path, canary=settings)
    made.users_correct(120)
    made.people_confirm(old=50, new=50)
    return made


def keeper(world: World) -> CanaryKeeper:
    """That of a loop that has just come to lead, after whoever led before is gone."""
    world.now += timedelta(minutes=1)
    lease = LoopLease(world.database, 15, world.clock)
    assert lease.acquire()
    return CanaryKeeper(world.workshop(), lease, world.stopping, lambda: world.now.timestamp())


def begun(world: World) -> str:
    """A cycle that has come to its canary; its id."""
    cycle_id = world.request()
    cycle = run_cycle(world.workshop(), world.record(cycle_id), pauses=())
    assert (cycle.state, cycle.step, cycle.version) == ("canary", "canary", "1.0"), cycle.reason
    return cycle_id


def read(world: World) -> tuple[Cycle, Canary, str]:
    """The newest cycle, the newest canary or watch, and the champion."""
    with world.database.reading() as session:
        cycle = session.exec(select(Cycle).order_by(col(Cycle.id).desc())).first()
        canary = session.exec(select(Canary).order_by(col(Canary.id).desc())).first()
        assert cycle is not None and canary is not None
        return cycle, canary, get_model(session, MODEL).champion or "base"


def served(
    world: World,
    users: int,
    stars: Callable[[str], float | None],
    output: Callable[[str], str] = lambda _: ANSWER,
    **other: object,
) -> None:
    """Each user asks once and gets the version that is theirs; they rate it with about `stars` of that version."""
    draw = random.Random(0)
    with world.database.session() as session:
        arms = Arms.of(open_canaries(session)[0])
        for number in range(users):
            user = f"user-{number}"
            version = arms.version_for(unit_of(user, None, ""))
            add(session, world, user, version, output(version), _rating(draw, stars(version)), **other)
        session.commit()


def add(
    session: Session,
    world: World,
    user: str | None,
    version: str,
    output: str,
    rating: int | None,
    **other: object,
) -> str:
    row = Inference(
        id=new_id(world.clock()),
        created=world.now.timestamp(),
        model=MODEL,
        version=version,
        user=user,
        status=200,
        finish_reason="stop",
        output=output,
        latency_ms=50.0,
        completion_tokens=10,
    )
    for name, value in other.items():
        setattr(row, name, value)
    session.add(row)
    if rating is not None:
        at = new_id(world.clock())
        said = Feedback(id=at, inference_id=row.id, created=0.0, rater=user or "x", rating=rating)
        session.add(said)
        return said.id
    return row.id


def _rating(draw: random.Random, mean: float | None) -> int | None:
    return None if mean is None else min(5, max(1, round(draw.gauss(mean, 0.7))))


def test_users_who_rate_well_promote_and_the_promotion_is_watched(world: World) -> None:
    cycle_id = begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    keeper(world).look_at_all()
    cycle, watch, champion = read(world)
    assert (cycle.id, cycle.state, cycle.decision, champion) == (cycle_id, "done", "promoted", "1.0")
    assert cycle.reason is not None and "rated better beyond chance" in cycle.reason
    assert [step["step"] for step in cycle.steps][-1] == "canary" and cycle.steps[-1]["ended"]
    assert world.server.promotions[0]["cycle_id"] == cycle_id
    assert (watch.kind, watch.state, watch.version, watch.against) == ("watch", "open", "1.0", "base")
    with world.database.reading() as session:
        canary = session.exec(select(Canary).where(Canary.kind == "canary")).one()
    assert (canary.state, watch.salt) == ("passed", canary.salt)
    assert canary.result["on_trial"]["users"] > 200


def test_users_who_rate_badly_take_it_back_and_nothing_was_moved(world: World) -> None:
    begun(world)
    served(world, 600, lambda version: 2.5 if version == "1.0" else 3.5)
    keeper(world).look_at_all()
    cycle, canary, champion = read(world)
    assert (cycle.decision, canary.state, champion) == ("rejected", "rolled_back", "base")
    assert "rated worse beyond chance" in (cycle.reason or "")
    with world.database.reading() as session:
        assert get_version(session, MODEL, "1.0").state == "rejected"
        assert load_snapshot(session).models[MODEL].left == {"1.0"}


def test_a_challenger_that_answers_nothing_is_out_before_anyone_has_rated(world: World) -> None:
    begun(world)
    served(world, 30, lambda _: None, lambda version: "" if version == "1.0" else ANSWER)
    keeper(world).look_at_all()
    cycle, canary, champion = read(world)
    assert (cycle.decision, canary.state, champion) == ("rejected", "rolled_back", "base")
    assert "format:" in (cycle.reason or "") and "malformed (100.0%)" in (cycle.reason or "")


def test_one_that_fails_is_out_too_and_bad_requests_are_not_its_fault(world: World) -> None:
    begun(world)
    served(world, 60, lambda _: None, status=400)
    looking = keeper(world)
    looking.look_at_all()
    assert read(world)[1].state == "open"
    with world.database.session() as session:
        arms = Arms.of(open_canaries(session)[0])
        for number in range(60):
            version = arms.version_for(unit_of(f"u{number}", None, ""))
            add(session, world, f"u{number}", version, "", None, status=502 if version == "1.0" else 200)
        session.commit()
    looking.look_at_all()
    assert read(world)[1].state == "rolled_back"
    assert "errors:" in (read(world)[1].reason or "")


@pytest.mark.parametrize(
    ("at_limit", "decision", "champion"), [("promote", "promoted", "1.0"), ("hold", "inconclusive", "base")]
)
def test_when_the_time_is_up_the_gates_word_or_a_person_decides(
    sqlite_database: Database, tmp_path: Path, at_limit: str, decision: str, champion: str
) -> None:
    settings = CanarySettings(share=0.5, holdback=0, hours=1.0, at_limit=at_limit)  # type: ignore[arg-type]
    world = World(sqlite_database, tmp_path, canary=settings)
    world.users_correct(120)
    world.people_confirm(old=50, new=50)
    begun(world)
    served(world, 40, lambda _: 3.5)
    looking = keeper(world)
    looking.look_at_all()
    assert read(world)[0].state == "canary"
    assert "at least 50 users of each have to have rated" in read(world)[1].result["reason"]
    world.now += timedelta(hours=1)
    assert looking._lease.acquire()
    looking.look_at_all()
    cycle, canary, serving = read(world)
    assert (cycle.decision, serving) == (decision, champion)
    assert "the time is up and nothing speaks against it" in (canary.reason or "")
    assert canary.kind == "canary"  # without a holdback there is no watch


def test_a_canary_that_answers_nobody_gets_its_time_once_more_and_is_then_inconclusive(world: World) -> None:
    begun(world)
    served(world, 20, lambda _: 5.0, purpose="evaluation")
    looking = keeper(world)
    first = read(world)[1].limit
    for more, state in ((1, "open"), (0, "open"), (1, "withdrawn")):
        world.now += timedelta(hours=more)
        assert looking._lease.acquire()
        looking.look_at_all()
        cycle, canary, champion = read(world)
        assert (canary.state, champion) == (state, "base")
        assert canary.limit == pytest.approx(first + 3600)
    assert cycle.decision == "inconclusive"
    assert "no user was answered by it" in (cycle.reason or "")
    assert "another canary of assistant@1.0" in (cycle.reason or "")


def test_a_canary_that_users_come_to_late_is_decided_at_its_later_end(world: World) -> None:
    begun(world)
    looking = keeper(world)
    decisions = []
    for came in (0, 10, 0):
        served(world, came, lambda _: 4.0)
        world.now += timedelta(hours=0.99)
        assert looking._lease.acquire()
        looking.look_at_all()
        decisions.append(read(world)[0].decision)
    assert decisions[:2] == [None, None] and decisions[2] == "promoted"


def test_a_canary_is_cancelled_with_its_cycle(world: World) -> None:
    cycle_id = begun(world)
    with world.database.session() as session:
        with pytest.raises(ConflictError, match="in its canary, where users decide"):
            request_cycle(session, MODEL, "auto", [], "test", world.clock())
        session.rollback()
        cancel_cycle(session, cycle_id, world.clock())
        session.commit()
    keeper(world).look_at_all()
    cycle, canary, champion = read(world)
    assert (cycle.state, canary.state, champion) == ("cancelled", "withdrawn", "base")
    world.request()  # and the next may begin


@pytest.mark.parametrize(
    ("to", "decision", "state"), [("1.0", "promoted", "passed"), ("1.1", "inconclusive", "withdrawn")]
)
def test_a_person_may_move_the_champion_meanwhile(world: World, to: str, decision: str, state: str) -> None:
    begun(world)
    with world.database.session() as session:
        if to == "1.1":
            other = get_version(session, MODEL, "1.0").model_dump() | {"id": "other", "number": "1.1"}
            session.add(type(get_version(session, MODEL, "1.0"))(**other | {"cycle_id": None}))
            session.flush()
        move_champion(session, MODEL, to, "promotion", "we know", "ada", None, world.clock())
        session.commit()
    keeper(world).look_at_all()
    with world.database.reading() as session:
        canary = session.exec(select(Canary).where(Canary.kind == "canary")).one()
    cycle, _, champion = read(world)
    assert (cycle.decision, canary.state, champion) == (decision, state, to)
    assert "we know" in (cycle.reason or "")


def test_quality_that_falls_after_the_promotion_rolls_back(world: World) -> None:
    begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    looking = keeper(world)
    looking.look_at_all()
    served(world, 900, lambda version: 2.0 if version == "1.0" else 3.5)
    world.now += timedelta(minutes=1)
    assert looking._lease.acquire()
    looking.look_at_all()
    cycle, watch, champion = read(world)
    assert (cycle.decision, watch.kind, watch.state, champion) == ("promoted", "watch", "rolled_back", "base")
    assert (watch.reason or "").startswith("watch: ratings: ")
    with world.database.reading() as session:
        assert load_snapshot(session).models[MODEL].left == {"1.0"}


def test_a_watch_without_harm_ends_when_its_time_is_up(world: World) -> None:
    begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    looking = keeper(world)
    looking.look_at_all()
    world.now += timedelta(hours=3)
    assert looking._lease.acquire()
    looking.look_at_all()
    assert (read(world)[1].state, read(world)[2]) == ("passed", "1.0")


def test_what_users_were_not_dealt_or_did_not_say_freely_does_not_count(world: World) -> None:
    begun(world)
    with world.database.session() as session:
        arms = Arms.of(open_canaries(session)[0])
        held = []
        for number in range(400):
            user = f"user-{number}"
            version = arms.version_for(unit_of(user, None, ""))
            other = "base" if version == "1.0" else "1.0"
            stars = 1 if version == "1.0" else 5
            add(session, world, user, other, ANSWER, stars, conversation="goes on")  # begun before
            add(session, world, user, version, ANSWER, stars, pinned=True)
            add(session, world, user, version, ANSWER, stars, purpose="evaluation")
            held.append(add(session, world, user, version, ANSWER, stars))
        hold = RaterHold(
            id="hold", model=MODEL, created=0.0, kind="version", target="1.0", feedback=held, reason="many"
        )
        session.add(hold)
        session.commit()
    keeper(world).look_at_all()
    canary = read(world)[1]
    assert canary.state == "open"
    assert (canary.result["on_trial"]["users"], canary.result["against"]["users"]) == (0, 0)


def test_a_server_that_is_away_is_asked_again_at_the_next_look(world: World) -> None:
    begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    world.server.away = True
    looking = keeper(world)
    looking.look_at_all()
    assert (read(world)[0].state, read(world)[2]) == ("canary", "base")
    world.server.away = False
    looking.look_at_all()
    assert (read(world)[0].decision, read(world)[2]) == ("promoted", "1.0")


def test_a_loop_that_no_longer_leads_decides_nothing(world: World) -> None:
    begun(world)
    looking = keeper(world)
    keeper(world)
    served(world, 600, lambda version: 2.0 if version == "1.0" else 3.5)
    with pytest.raises(LeaseLostError):
        looking.look_at_all()
    assert read(world)[1].state == "open"


class KilledError(BaseException):
    """What `kill -9` looks like from inside."""


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("what", ["begin_canary", "promote"])
def test_a_loop_killed_around_a_call_to_the_server_is_gone_on_with(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str, before: bool
) -> None:
    respond = world.server._respond

    def dying(request: object) -> object:
        mine = str(request.url).endswith("/canary" if what == "begin_canary" else "/promote")  # type: ignore[attr-defined]
        if mine and before:
            raise KilledError
        answer = respond(request)  # type: ignore[arg-type]
        if mine:
            raise KilledError
        return answer

    cycle_id = world.request()
    monkeypatch.setattr(world.server, "_respond", dying)
    if what == "begin_canary":
        with pytest.raises(KilledError):
            run_cycle(world.workshop(), world.record(cycle_id), pauses=())
        monkeypatch.setattr(world.server, "_respond", respond)
    run_cycle(world.workshop(), world.record(cycle_id), pauses=())
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    if what == "promote":
        with pytest.raises(KilledError):
            keeper(world).look_at_all()
        monkeypatch.setattr(world.server, "_respond", respond)
    keeper(world).look_at_all()
    cycle, watch, champion = read(world)
    assert (cycle.decision, watch.kind, champion) == ("promoted", "watch", "1.0")
    assert len(world.server.promotions) == 1
    with world.database.reading() as session:
        assert len(session.exec(select(Canary)).all()) == 2


@pytest.mark.parametrize("decision", ["promoted", "rejected"])
def test_a_loop_killed_before_or_after_the_cycle_is_ended_ends_it_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, decision: str
) -> None:
    begun(world)
    good = decision == "promoted"
    served(world, 600, lambda version: (4.5 if good else 2.0) if version == "1.0" else 3.5)
    finish = CycleRecord.finish

    def die(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr(CycleRecord, "finish", die)
    with pytest.raises(KilledError):
        keeper(world).look_at_all()
    assert read(world)[0].state == "canary"
    monkeypatch.setattr(CycleRecord, "finish", finish)
    keeper(world).look_at_all()
    keeper(world).look_at_all()
    assert (read(world)[0].state, read(world)[0].decision) == ("done", decision)
    assert len(world.server.promotions) == (1 if good else 0)


def test_of_a_model_one_canary_is_open_and_what_it_compares_is_not_retired(world: World) -> None:
    begun(world)
    with world.database.session() as session:
        with pytest.raises(ConflictError, match="is in its canary; end that first"):
            begin_canary(session, MODEL, "1.0", 0.1, 1.0, "again", Actor("ada"), None, world.clock())
        session.rollback()
        with pytest.raises(ConflictError, match="answers users in a canary"):
            begin_retirement(session, MODEL, "1.0", "away", Actor("ada"), world.clock())
        session.rollback()
        end_canary(session, read(world)[1].id, "withdrawn", "not now", Actor("ada"), world.clock())
        session.commit()
    keeper(world).look_at_all()
    assert read(world)[0].decision == "inconclusive"
    with world.database.session() as session:
        for version, share, problem in (
            ("base", 0.1, "champion already"),
            ("9.9", 0.1, "no version"),
            ("1.0", 1.0, "share"),
        ):
            with pytest.raises(StarloopError, match=problem):
                begin_canary(session, MODEL, version, share, 1.0, "why", Actor("ada"), None, world.clock())
            session.rollback()
