"""Canaries of several models: what goes wrong with one holds up no other, and nothing waits for the server."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import msgspec
import pytest
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.registry.arms import Arms, unit_of
from feedback.registry.canaries import begin_canary
from feedback.registry.models import ensure_models
from feedback.registry.versions import get_version
from feedback.settings import Model
from feedback.storage.tables import Canary, ModelVersion
from tests.trainer.test_canary_keeper import ANSWER, add, begun, keeper, read, served, world
from tests.trainer.world import MODEL, World

__all__ = ["world"]
OTHER = "other"


def other_breaks(world: World) -> str:
    """A second model whose challenger fails with every answer, in a canary; its id."""
    ours = world.settings.model[0]
    models = [ours, Model(name=OTHER, base=ours.base, mode="auto")]
    world.settings = msgspec.structs.replace(world.settings, model=models)
    with world.database.session() as session:
        ensure_models(session, world.settings, world.now)
        known = get_version(session, MODEL, "1.0").model_dump()
        session.add(ModelVersion(**known | {"id": "its", "model": OTHER, "cycle_id": None}))
        session.flush()
        row = begin_canary(session, OTHER, "1.0", 0.5, 1.0, "why", Actor("ada"), None, world.clock())
        arms = Arms.of(row)
        for number in range(60):
            version = arms.version_for(unit_of(f"user-{number}", None, ""))
            status = 502 if version == "1.0" else 200
            add(session, world, f"user-{number}", version, ANSWER, None, model=OTHER, status=status)
        identifier = row.id
        session.commit()
    return identifier


def state_of(world: World, identifier: str) -> str:
    with world.database.reading() as session:
        return session.get_one(Canary, identifier).state


def counting(
    monkeypatch: pytest.MonkeyPatch, world: World, ending: str, answer: Callable[[], httpx.Response]
) -> list[str]:
    """Answer calls whose path ends so; they are listed as they come."""
    respond, calls = world.server._respond, []

    def other(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith(ending):
            return respond(request)
        calls.append(request.url.path)
        return answer()

    monkeypatch.setattr(world.server, "_respond", other)
    return calls


def test_a_promotion_that_meets_a_server_that_is_away_waits_for_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    its = other_breaks(world)
    calls = counting(monkeypatch, world, "/promote", lambda: httpx.Response(503, json={}))
    world.patience = 5.0
    looking = keeper(world)
    looking.look_at_all()
    assert calls == [f"/v1/models/{MODEL}/promote"], "asked once, and not for as long as patience lasts"
    assert state_of(world, its) == "rolled_back"
    assert read(world)[0].state == "canary"


@pytest.mark.parametrize("status", [403, 507])
def test_a_rollback_that_the_server_refuses_holds_up_no_other_canary(
    world: World, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    keeper(world).look_at_all()
    served(world, 900, lambda version: 2.0 if version == "1.0" else 3.5)
    its = other_breaks(world)
    with monkeypatch.context() as patched:
        calls = counting(patched, world, "/rollback", lambda: httpx.Response(status, json={}))
        looking = keeper(world)
        for _ in range(2):
            looking.look_at_all()
        assert len(calls) == 2
    assert state_of(world, its) == "rolled_back"
    keeper(world).look_at_all()
    with world.database.reading() as session:
        assert session.exec(select(Canary).where(Canary.kind == "watch")).one().state == "rolled_back"


def test_a_cycle_that_cannot_be_gone_on_with_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(world)
    served(world, 600, lambda version: 4.5 if version == "1.0" else 3.5)
    its = other_breaks(world)

    def defect(*_: object) -> None:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr("trainer.canary_keeper.watch_promotion", defect)
    keeper(world).look_at_all()
    assert state_of(world, its) == "rolled_back" and read(world)[0].state == "canary"
    monkeypatch.undo()
    keeper(world).look_at_all()
    assert read(world)[0].decision == "promoted"
