"""`/v1/failures…`: what triage found, and what a reviewer makes of it."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from sqlmodel import Session

from feedback.access.audit import note
from feedback.datasets.failing_kinds import FailingKinds, Question, kinds_apart
from feedback.datasets.failures import list_failures, resolve_failure
from feedback.registry.models import get_model
from feedback.settings import ReasonName
from feedback.storage.tables import Failure
from server.access import Caller
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier
from server.routes.feedback import correction_text
from server.routes.inferences import moment
from server.views import FailureView, Listed, listed, view
from server.wire import Resolve

_REVIEW = {SCOPES: ("review",)}
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
    wanted = request.user.narrowed(model)
    with gateway.database.reading() as session:
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
) -> FailureView:
    """Correct a failure case, accept its answer as right, or dismiss it."""
    wanted = identifier(failure_id, "a failure case")
    correction = correction_text(data.correction)
    with gateway.database.session() as session:
        need_model_of(session, wanted, request.user)
        row = resolve_failure(
            session, wanted, data.action, correction, request.user.owner, gateway.settings, gateway.now()
        )
        facts = {"model": row.model, "action": data.action}
        note(session, request.user.actor, "failure.resolve", row.id, gateway.now(), **facts)
        session.commit()
        return view(FailureView, row)


def need_model_of(session: Session, failure_id: str, caller: Caller) -> None:
    """Raises `NotAllowedError` where the key is not for the failure case's model; one that is unknown is told later."""
    known = session.get(Failure, failure_id)
    if known is not None:
        caller.need_model(known.model)


ROUTES = [failures, kinds, resolve]
