"""What serving costs: from a model's registration on, and an engine's hours once, however many models it serves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from feedback.registry.models import ensure_models, get_model
from feedback.reports.document import Report
from feedback.reports.facts import gather
from feedback.reports.forms import markdown
from feedback.reports.monthly import month_of
from feedback.settings import Engine, Model
from feedback.storage.database import Database
from tests.feedback.world import World, settings_for

END = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    """Of two models on one engine, registered 20 and 5 days before the end of March."""
    settings = settings_for(tmp_path)
    world = World(database, settings)
    priced = [replace(model, monthly_budget=100.0) for model in (*settings.model, Model(name="second"))]
    world.settings = replace(settings, engine=[Engine(price_per_hour=1.0)], model=priced)
    with database.session() as session:
        ensure_models(session, world.settings, END - timedelta(days=5))
        get_model(session, "assistant").created = (END - timedelta(days=20)).timestamp()
        session.commit()
    return world


def _report(world: World, model: str, month: str, now: datetime = END + timedelta(days=2)) -> Report:
    with world.database.reading() as session:
        return gather(session, world.settings, model, month, now)


def test_models_on_one_engine_share_its_hours_from_their_registrations_on(world: World) -> None:
    first, second = (_report(world, name, "2026-03") for name in ("assistant", "second"))
    assert first.costs.serving == pytest.approx(24 * (15 + 5 / 2))
    assert second.costs.serving == pytest.approx(24 * 5 / 2)
    assert (first.costs.serving or 0.0) + (second.costs.serving or 0.0) == pytest.approx(24 * 20)
    assert "an even part of what the engine costs, which serves 2 models" in markdown(first)
    so_far = _report(world, "second", "2026-04").costs
    assert so_far.serving == pytest.approx(24 * 2 / 2)  # two days of April have passed


def test_the_least_cost_is_one(world: World) -> None:
    world.settings = replace(world.settings, engine=[Engine(price_per_hour=1e-6)])
    found = _report(world, "second", "2026-03")
    assert (found.costs.serving, found.costs.present) == (0.0, True)
    assert {one.name: one.state for one in found.criteria}["cost"] == "met"


def test_the_first_month_of_all_has_none_before_it(world: World) -> None:
    assert _report(world, "assistant", "1970-01").before.answers == 0


def test_a_model_costs_nothing_before_it_was_registered_and_meets_no_goal_by_that(world: World) -> None:
    found = _report(world, "second", "2026-02")
    assert (found.costs.serving, found.costs.sharing) == (0.0, 1)
    assert {one.name: one.state for one in found.criteria}["cost"] == "unknown"
    since, _ = month_of("2026-03")
    alone = _report(world, "assistant", "2026-03", datetime.fromtimestamp(since, UTC) + timedelta(days=13))
    assert (alone.costs.serving, alone.costs.sharing) == (pytest.approx(24 * 2), 1)
    assert "an even part" not in markdown(alone)
