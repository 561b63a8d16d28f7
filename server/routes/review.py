"""`/review` and what it works with: the next failure case for one reviewer alone, letting go of it, taking a decision back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Struct
from sqlmodel import Session

from feedback.access.audit import note
from feedback.datasets.agreement import agreement, opinions, seen_by
from feedback.datasets.believed import Belief
from feedback.datasets.reopening import reopen_failure
from feedback.datasets.review_case import ReviewCase, read_case
from feedback.datasets.review_queue import (
    CLAIM_SECONDS,
    claim_first,
    count_decided,
    count_held,
    count_waiting,
    is_choice,
    queue,
    release,
)
from feedback.registry.models import get_model
from feedback.reports.pulse import mark_of, review_facts
from server.access import Caller
from server.gateway import Gateway
from server.rendering import model_page
from server.request import OPEN, SCOPES, GatewayRequest, Parts, identifier
from server.routes.failures import need_model_of
from server.routes.updates import live
from server.views import FailureView, view
from server.wire import ClaimCase, ReleaseCase

_REVIEW = {SCOPES: ("review",)}
_DAY = 86_400.0


class Claimed(Struct, kw_only=True):
    """A case that is kept for the holder, and how far the work is."""

    case: ReviewCase | None
    """None where nothing that is not skipped waits, or others hold all of it."""
    kept_seconds: float
    """For so long nobody else is given it; claiming it again (`first`) begins anew."""
    waiting: int
    held: int
    """Of them by others."""
    seen: int
    """Of those that wait, how many this caller has decided on and another reviewer has not."""
    decided: int
    """By this caller in the last 24 hours."""


@post("/v1/failures/claim", status_code=200, opt=_REVIEW, sync_to_thread=True)
def claim(data: JSONBody[ClaimCase], request: GatewayRequest, gateway: Parts) -> Claimed:
    """The case whose decision teaches most of those that nobody looks at; the one held before is let go of."""
    request.user.need_model(data.model)
    now = gateway.now()
    holder = _holder(request.user, data.holder)
    belief = Belief()
    with gateway.database.reading() as session:
        get_model(session, data.model)
        if is_choice(session, data.model):  # one alone needs no order
            found = gateway.beliefs.get(data.model)
            belief = (found and found.value) or belief
        places = {one.failure_id: one for one in queue(session, data.model, belief)}
        seen = seen_by(session, data.model, request.user.owner, places)
    skipped = seen | set(data.skip)
    order = [one for one in places if one not in skipped]
    if data.first in places:
        order = [data.first, *(one for one in order if one != data.first)]
    with gateway.database.session() as session:
        claimed = claim_first(session, order, data.model, holder, now)
        session.commit()
    with gateway.database.reading() as session:
        case = None
        if claimed is not None:
            case = read_case(session, places[claimed], gateway.settings, belief)
            case.opinions = len(opinions(session, claimed))
        return Claimed(
            case=case,
            kept_seconds=CLAIM_SECONDS,
            waiting=count_waiting(session, data.model),
            held=count_held(session, data.model, now, holder),
            seen=len(seen),
            decided=_decided(session, data.model, request.user, now),
        )


@post("/v1/failures/{failure_id:str}/release", status_code=204, opt=_REVIEW, sync_to_thread=True)
def let_go(
    failure_id: FromPath[str], data: JSONBody[ReleaseCase], request: GatewayRequest, gateway: Parts
) -> None:
    """Give a claimed case back before its time; one that somebody else holds stays theirs."""
    wanted = identifier(failure_id, "a failure case")
    with gateway.database.session() as session:
        need_model_of(session, wanted, request.user)
        release(session, wanted, _holder(request.user, data.holder))
        session.commit()


@post("/v1/failures/{failure_id:str}/reopen", status_code=200, opt=_REVIEW, sync_to_thread=True)
def reopen(failure_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> FailureView:
    """Take back what people decided on a case and its candidates; it waits again. 409 where nothing was decided."""
    wanted = identifier(failure_id, "a failure case")
    with gateway.database.session() as session:
        need_model_of(session, wanted, request.user)
        row = reopen_failure(session, wanted, gateway.settings, gateway.now(), request.user.owner)
        note(session, request.user.actor, "failure.reopen", row.id, gateway.now(), model=row.model)
        session.commit()
        return view(FailureView, row)


@get("/review", opt={SCOPES: OPEN}, include_in_schema=False, sync_to_thread=True)
def review(request: GatewayRequest, gateway: Parts, model: FromQuery[str] = "") -> Response[str]:
    """Work through the failure cases that wait, by keyboard."""

    def shown(caller: Caller, chosen: str) -> dict[str, Any]:
        now = gateway.now()
        with gateway.database.reading() as session:
            get_model(session, chosen)
            facts = review_facts(session, chosen, now)
            return {
                **facts,
                "decided": _decided(session, chosen, caller, now),
                "agreement": agreement(session, chosen) if _reviewers(gateway, chosen) > 1 else None,
                "live": live("review", chosen, mark_of(facts)),
                "ready": True,
            }

    nothing = {"waiting": 0, "held": 0, "decided": 0, "agreement": None, "ready": False}
    return model_page("review.html", request, gateway, model, ("review",), nothing, shown)


def _holder(caller: Caller, page: str) -> str:
    """Pages make up their names; with the key before it, none can be another key's."""
    return f"{caller.key_id or 'local'}:{page}"


def _reviewers(gateway: Gateway, model: str) -> int:
    configured = gateway.settings.model_named(model)
    return 1 if configured is None else configured.reviewers


def _decided(session: Session, model: str, caller: Caller, now: datetime) -> int:
    return count_decided(session, model, caller.owner, now.timestamp() - _DAY)


ROUTES = [claim, let_go, reopen, review]
