"""What a model's serving and training cost in a period, as far as their prices are set."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from sqlmodel import Session, col, select

from feedback.reports.document import Costs
from feedback.reports.traffic import Period
from feedback.settings import Model, Settings
from feedback.storage.tables import ModelVersion, RegisteredModel


def costs_of(session: Session, settings: Settings, period: Period, answers: int, now: datetime) -> Costs:
    """The costs of the part of a period that has passed, from the model's registration on.

    An engine costs the same whoever asks, so the models that it serves share each of its hours evenly, from their
    registrations on: their costs add up to the engine's. Models that left the configuration are not counted, as nothing tells
    when they did. `answers` are the period's.
    """
    trained = session.exec(
        select(ModelVersion.facts).where(
            ModelVersion.model == period.model,
            ModelVersion.created >= period.since,
            ModelVersion.created < period.until,
        )
    ).all()
    costs = Costs(training_seconds=sum(float(facts.get("seconds") or 0.0) for facts in trained))
    model = settings.model_named(period.model)
    assert model is not None
    engine = next((engine for engine in settings.engine if engine.base == model.base), None)
    if engine is not None and engine.price_per_hour:
        begun = _registrations(session, settings, model)
        until = min(period.until, now.timestamp())
        seconds = _even_part(begun, model.name, period.since, until)
        costs.present = begun.get(model.name, until) < until
        costs.serving = round(seconds / 3600 * engine.price_per_hour, 2)
        costs.sharing = max(sum(moment < until for moment in begun.values()), 1)
    if settings.training.price_per_hour:
        costs.training = round(costs.training_seconds / 3600 * settings.training.price_per_hour, 2)
    if costs.total is not None and answers:
        costs.per_thousand_answers = round(1000 * costs.total / answers, 4)
    costs.budget = model.monthly_budget or None
    return costs


def _registrations(session: Session, settings: Settings, model: Model) -> dict[str, float]:
    """When each model that the engine of `model` serves was registered, Unix seconds."""
    names = [one.name for one in settings.model if one.base == model.base]
    query = select(RegisteredModel.name, RegisteredModel.created).where(col(RegisteredModel.name).in_(names))
    return dict(session.exec(query).all())


def _even_part(begun: dict[str, float], model: str, since: float, until: float) -> float:
    """Seconds between two moments, each divided by how many models there were; none before the model was there."""
    start = max(since, begun.get(model, until))
    changes = sorted(moment for moment in begun.values() if start < moment < until)
    stretches = pairwise([start, *changes, until])
    return sum(
        (end - first) / sum(moment <= first for moment in begun.values())
        for first, end in stretches
        if end > first
    )
