"""`/v1/cases…`: the suites that versions are judged by. People make them; feedback cannot reach them."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from sqlmodel import col, select

from feedback.access.audit import note
from feedback.datasets.cases import confirm_case, drop_case, list_cases
from feedback.datasets.contract import TaskContract
from feedback.datasets.drawing import Drawing, draw_apart
from feedback.errors import NotFoundError
from feedback.storage.tables import Case
from server.gateway import Gateway
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier, listed_model
from server.views import CaseView, Listed, listed, view
from server.wire import Confirm, Draw

_REVIEW = {SCOPES: ("review",)}
CaseState = Literal["drawn", "confirmed", "lapsed", "dropped"]


@get("/v1/cases", opt=_REVIEW, sync_to_thread=True)
def cases(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    suite: FromQuery[Literal["golden", "regression"] | None] = None,
    # under this name, as `state` alone is a word that Litestar keeps for itself
    case_state: Annotated[CaseState | None, QueryParameter(name="state")] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[CaseView]:
    """Evaluation cases, newest first."""
    with gateway.database.reading() as session:
        wanted = listed_model(request.user, session, model)
        return listed(list_cases(session, wanted, suite, case_state, limit, cursor), _shown)


@post("/v1/cases/draw", opt=_REVIEW, sync_to_thread=True)
def draw(data: JSONBody[Draw], request: GatewayRequest, gateway: Parts) -> Listed[CaseView]:
    """Draw prompts at random from live traffic, blind to how they were answered, for a person to judge."""
    request.user.need_model(data.model)
    drawing = Drawing(
        gateway.settings, data.model, data.count, secrets.randbits(32), request.user.actor, gateway.now()
    )
    drawn = draw_apart(drawing)
    with gateway.database.reading() as session:
        found = {case.id: case for case in session.exec(select(Case).where(col(Case.id).in_(drawn)))}
        return Listed([_shown(found[identifier]) for identifier in drawn])


@post("/v1/cases/{case_id:str}/confirm", status_code=200, opt=_REVIEW, sync_to_thread=True)
def confirm(
    case_id: FromPath[str], data: JSONBody[Confirm], request: GatewayRequest, gateway: Parts
) -> CaseView:
    """Give a drawn case its right answer, and say whether it is critical: a version that loses it is rejected."""
    wanted = identifier(case_id, "a case")
    with gateway.database.session() as session:
        model = _model_of(session.get(Case, wanted), wanted)
        request.user.need_model(model)
        contract = _contract(gateway, model)
        case = confirm_case(
            session, wanted, data.answer, request.user.owner, gateway.now(), contract, data.critical
        )
        said = {"model": case.model, "critical": case.critical}
        note(session, request.user.actor, "case.confirm", case.id, gateway.now(), **said)
        session.commit()
        return _shown(case)


@post("/v1/cases/{case_id:str}/drop", status_code=200, opt=_REVIEW, sync_to_thread=True)
def drop(case_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> CaseView:
    """Take a case out of its suite: it cannot be judged, or should not be."""
    wanted = identifier(case_id, "a case")
    with gateway.database.session() as session:
        request.user.need_model(_model_of(session.get(Case, wanted), wanted))
        case = drop_case(session, wanted)
        note(session, request.user.actor, "case.drop", case.id, gateway.now(), model=case.model)
        session.commit()
        return _shown(case)


def _contract(gateway: Gateway, name: str) -> TaskContract:
    model = gateway.settings.model_named(name)
    return TaskContract(None) if model is None else TaskContract.from_settings(model)


def _model_of(case: Case | None, identifier: str) -> str:
    if case is None:
        raise NotFoundError(f"there is no case {identifier}; GET /v1/cases lists those there are")
    return case.model


def _shown(case: Case) -> CaseView:
    return view(CaseView, case)


ROUTES = [cases, draw, confirm, drop]
