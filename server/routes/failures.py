"""`/v1/failures…`: what triage found, and what a reviewer makes of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import structs
from sqlmodel import Session

from feedback.access.audit import note
from feedback.datasets.failing_kinds import FailingKinds, Question, kinds_apart
from feedback.datasets.failures import list_failures, resolve_failure
from feedback.datasets.review_queue import alike_waiting
from feedback.registry.models import get_model
from feedback.settings import ReasonName
from feedback.storage.tables import Failure
from server.access import Caller
from server.gateway import Gateway
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier, listed_model
from server.routes.feedback import correction_text
from server.routes.inferences import moment
from server.views import FailureView, Listed, ResolvedView, listed, view
from server.wire import Resolve

_REVIEW = {SCOPES: ("review",)}
Action = Literal["correct", "accept", "dismiss"]
FailureState = Literal["quarantine", "corrected", "accepted", "dismissed", "operations"]


@get("/v1/failures", opt=_REVIEW, sync_to_thread=True)
def failures(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    # under this name, as `state` alone is a word that Litestar keeps for itself
    case_state: Annotated[FailureState | None, QueryParameter(name="state")] = None,
    reason: FromQuery[ReasonName | None] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[FailureView]:
    """Failure cases, newest first; with `reason`, those that have it among theirs."""
    with gateway.database.reading() as session:
        wanted = listed_model(request.user, session, model)
        page = list_failures(session, wanted, case_state, limit, cursor, reason)
        return listed(page, lambda row: view(FailureView, row))


@get("/v1/failures/kinds", opt=_REVIEW, sync_to_thread=True)
def kinds(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str],
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
) -> FailingKinds:
    """Which kinds of input fail more often than the rest, by phrases and metadata; takes seconds."""
    request.user.need_model(model)
    with gateway.database.reading() as session:
        get_model(session, model)
    question = Question(gateway.settings, model, moment(since, "since"), moment(until, "until"))
    return kinds_apart(question)


@post("/v1/failures/{failure_id:str}/resolve", status_code=200, opt=_REVIEW, sync_to_thread=True)
def resolve(
    failure_id: FromPath[str], data: JSONBody[Resolve], request: GatewayRequest, gateway: Parts
) -> ResolvedView:
    """Correct a failure case, accept its answer as right, or dismiss it; with `alike`, all that are like it."""
    wanted = identifier(failure_id, "a failure case")
    correction = correction_text(data.correction)
    with gateway.database.session() as session:
        need_model_of(session, wanted, request.user)
        case, now = session.get(Failure, wanted), gateway.now()
        also = alike_waiting(session, case, now) if data.alike and case is not None else []
        row, *_ = [
            _resolved(session, one, data.action, correction, request.user, gateway, now)
            for one in (wanted, *also)
        ]
        session.commit()
        return ResolvedView(**structs.asdict(view(FailureView, row)), also=also)


def _resolved(
    session: Session,
    failure_id: str,
    action: Action,
    correction: str | None,
    caller: Caller,
    gateway: Gateway,
    now: datetime,
) -> Failure:
    row = resolve_failure(session, failure_id, action, correction, caller.owner, gateway.settings, now)
    note(session, caller.actor, "failure.resolve", row.id, now, model=row.model, action=action)
    return row


def need_model_of(session: Session, failure_id: str, caller: Caller) -> None:
    """Raises `NotAllowedError` where the key is not for the failure case's model; one that is unknown is told later."""
    known = session.get(Failure, failure_id)
    if known is not None:
        caller.need_model(known.model)


ROUTES = [failures, kinds, resolve]
