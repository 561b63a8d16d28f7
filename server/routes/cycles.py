"""`/v1/cycles…`: runs of the loop. Asking for one only writes a row; the loop takes it from there."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from feedback.access.audit import note
from feedback.registry.cycles import cancel_cycle, get_cycle, list_cycles, request_cycle
from feedback.registry.models import get_model
from feedback.registry.training_steps import read_steps
from feedback.storage.tables import Cycle, TrainingStep
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier, listed_model
from server.views import CycleView, Listed, TrainingStepView, listed, view
from server.wire import NewCycle

_TRAIN = {SCOPES: ("train",)}


@get("/v1/cycles", opt=_TRAIN, sync_to_thread=True)
def cycles(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[CycleView]:
    """Cycles, newest first."""
    with gateway.database.reading() as session:
        wanted = listed_model(request.user, session, model)
        return listed(list_cycles(session, wanted, limit, cursor), _shown)


@post("/v1/cycles", opt=_TRAIN, status_code=202, sync_to_thread=True)
def start(data: JSONBody[NewCycle], request: GatewayRequest, gateway: Parts) -> CycleView:
    """Ask for a cycle. 409 while one of that model is queued or running."""
    caller = request.user
    caller.need_model(data.model)
    with gateway.database.session() as session:
        get_model(session, data.model)
        configured = gateway.settings.model_named(data.model)
        mode = data.mode or (configured.mode if configured else "propose")
        now, guards_off = gateway.now(), list(data.guards_off)
        cycle = request_cycle(session, data.model, mode, guards_off, caller.owner, now)
        note(
            session,
            caller.actor,
            "cycle.start",
            cycle.id,
            now,
            model=data.model,
            mode=mode,
            guards_off=guards_off,
            **_why(data.reason),
        )
        session.commit()
        return _shown(cycle)


@get("/v1/cycles/{cycle_id:str}", opt=_TRAIN, sync_to_thread=True)
def cycle(cycle_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> CycleView:
    """One cycle: what each step did, the decision and its reason."""
    with gateway.database.reading() as session:
        row = get_cycle(session, identifier(cycle_id, "a cycle"))
        request.user.need_model(row.model)
        return _shown(row)


@get("/v1/cycles/{cycle_id:str}/metrics", opt=_TRAIN, sync_to_thread=True)
def metrics(
    cycle_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    limit: Limit = 1000,
    cursor: FromQuery[str | None] = None,
) -> Listed[TrainingStepView]:
    """A cycle's training step by step, in order, also while it runs."""
    with gateway.database.reading() as session:
        row = get_cycle(session, identifier(cycle_id, "a cycle"))
        request.user.need_model(row.model)
        return listed(read_steps(session, row.id, limit, cursor), _step_shown)


@post("/v1/cycles/{cycle_id:str}/cancel", opt=_TRAIN, status_code=200, sync_to_thread=True)
def cancel(
    cycle_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    reason: Annotated[str | None, QueryParameter(max_length=1000)] = None,
) -> CycleView:
    """Ask a cycle to end at its next safe point; the reason stands in the audit log."""
    with gateway.database.session() as session:
        wanted = identifier(cycle_id, "a cycle")
        request.user.need_model(get_cycle(session, wanted).model)
        row = cancel_cycle(session, wanted, gateway.now())
        note(
            session,
            request.user.actor,
            "cycle.cancel",
            row.id,
            gateway.now(),
            model=row.model,
            **_why(reason),
        )
        session.commit()
        return _shown(row)


def _why(reason: str | None) -> dict[str, str]:
    return {"reason": reason} if reason else {}


def _shown(row: Cycle) -> CycleView:
    return view(CycleView, row)


def _step_shown(row: TrainingStep) -> TrainingStepView:
    return view(TrainingStepView, row)


ROUTES = [cycles, start, cycle, metrics, cancel]
