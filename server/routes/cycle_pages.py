"""`/cycles` and `/cycles/{id}`: turns of the loop, what each step did, and what a person may decide about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from litestar import Response, get
from litestar.params import FromPath, FromQuery
from markupsafe import Markup
from sqlmodel import Session, col, select

from feedback.access.audit import acts_on
from feedback.errors import NotFoundError
from feedback.registry.arms import open_canary
from feedback.registry.canaries import canary_of
from feedback.registry.cycles import OPEN as UNFINISHED
from feedback.registry.cycles import get_cycle, list_cycles
from feedback.registry.models import SERVABLE, get_model
from feedback.registry.training_steps import all_steps, epochs_of
from feedback.reports.cycle_figures import figure_table
from feedback.reports.plots import curves
from feedback.storage.tables import Cycle, ModelVersion, Move, TrainingStep
from server.access import Caller
from server.rendering import model_page, shown_page, visitor_of
from server.request import OPEN, SCOPES, GatewayRequest, Parts, identifier
from server.routes.updates import live_now

_OPEN = {SCOPES: OPEN}
_PAGE = 30
_SIGNS = {"for": "✓", "against": "✗", "open": "?", "note": "·"}


@get("/cycles", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def cycles(
    request: GatewayRequest, gateway: Parts, model: FromQuery[str] = "", cursor: FromQuery[str] = ""
) -> Response[str]:
    """A model's cycles, newest first, and the form that asks for one."""

    def shown(caller: Caller, chosen: str) -> dict[str, Any]:
        with gateway.database.reading() as session:
            get_model(session, chosen)
            found = list_cycles(session, chosen, _PAGE, cursor or None)
            follows = live_now(session, gateway, "cycles", chosen)
        configured = gateway.settings.model_named(chosen)
        return {
            "items": found.items,
            "following": found.next_cursor,
            "under_way": any(one.state in UNFINISHED for one in found.items),
            "live": follows,
            "mode": configured.mode if configured else "propose",
        }

    nothing: dict[str, Any] = {"items": [], "following": None, "under_way": False, "mode": ""}
    return model_page("cycles.html", request, gateway, model, ("train",), nothing, shown)


@get("/cycles/{cycle_id:str}", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def cycle(cycle_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> Response[str]:
    """One cycle, which follows what becomes of it."""
    visitor = visitor_of(request, "train")

    def shown() -> dict[str, Any]:
        caller = visitor.caller
        assert caller is not None
        with gateway.database.reading() as session:
            row = get_cycle(session, identifier(cycle_id, "a cycle"))
            if not caller.reaches(row.model):
                raise NotFoundError(f"there is no cycle {row.id}; /cycles lists those there are")
            trained = all_steps(session, row.id)
            result = row.result or {}
            return {
                "one": row,
                "live": live_now(session, gateway, "cycle", row.id),
                "under_way": row.state in UNFINISHED,
                "steps": [_step(entry) for entry in row.steps],
                "acts": _acts(session, row),
                "plot": Markup(_losses(trained)),
                "last": trained[-1] if trained else None,
                "epochs": epochs_of(trained),
                "noticed": [(step.step, text) for step in trained for text in step.noticed],
                "figures": figure_table(result, row.version),
                "gate": result.get("gate"),
                "signs": _SIGNS,
                "trials": [
                    trial
                    for trial in (canary_of(session, row.id, "canary"), canary_of(session, row.id, "watch"))
                    if trial is not None
                ],
                "compared": result.get("champion"),
                "serving": get_model(session, row.model).champion or "base",
                "promotable": caller.may("admin") and _promotable(session, row),
                "rejectable": caller.may("admin") and _rejectable(session, row),
                "may_end": caller.may("admin"),
            }

    nothing: dict[str, Any] = {"one": None, "under_way": False}
    return shown_page("cycle.html", visitor, nothing, shown)


class _Step(NamedTuple):
    name: str
    started: str
    took: str
    outcome: str | None
    progress: Mapping[str, Any] | None


class _Act(NamedTuple):
    when: float
    by: str
    what: str
    reason: str


def _step(entry: Mapping[str, Any]) -> _Step:
    started, ended = entry.get("started") or "", entry.get("ended")
    took = ""
    if started and ended:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
        took = f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
    return _Step(entry["step"], started, took, entry.get("outcome"), entry.get("progress"))


def _acts(session: Session, row: Cycle) -> list[_Act]:
    """What people and the gate did about a cycle, oldest first."""
    told = {"cycle.start": "asked for it", "cycle.cancel": "asked for its end"}
    found = [
        _Act(one.created, one.actor, told[one.act], one.details.get("reason", ""))
        for one in acts_on(session, row.id, ("cycle.start", "cycle.cancel"))
    ]
    moves = session.exec(select(Move).where(Move.cycle_id == row.id).order_by(col(Move.position)))
    found += [
        _Act(one.created, one.decided_by, f"made {one.to_version or 'base'} the champion", one.reason)
        for one in moves
    ]
    if row.version is not None:
        found += [
            _Act(one.created, one.actor, f"rejected {row.version}", one.details["reason"])
            for one in acts_on(session, row.model, ("version.reject",))
            if one.details["version"] == row.version
        ]
    return sorted(found)


def _losses(trained: Sequence[TrainingStep]) -> str:
    series = {
        "training": [(step.step, step.loss) for step in trained if step.loss is not None],
        "validation": [
            (step.step, step.validation_loss) for step in trained if step.validation_loss is not None
        ],
        "new examples": [
            (step.step, step.validation_new) for step in trained if step.validation_new is not None
        ],
        "old examples": [
            (step.step, step.validation_old) for step in trained if step.validation_old is not None
        ],
    }
    return curves("Losses over the training's steps, in nats a token", series)


def _promotable(session: Session, row: Cycle) -> bool:
    """Whether the cycle's version may be made the champion, and is not."""
    return _state(session, row) in SERVABLE and get_model(session, row.model).champion != row.version


def _rejectable(session: Session, row: Cycle) -> bool:
    """Whether the cycle's version waits for somebody's word, and nothing else decides on it."""
    on_trial = open_canary(session, row.model)
    return _state(session, row) == "registered" and (on_trial is None or on_trial.version != row.version)


def _state(session: Session, row: Cycle) -> str | None:
    """The state of the version that a cycle made; None where there is none, or the cycle still goes on."""
    if row.version is None or row.state in UNFINISHED:
        return None
    query = select(ModelVersion.state).where(
        ModelVersion.model == row.model, ModelVersion.number == row.version
    )
    return session.exec(query).first()


ROUTES = [cycles, cycle]
