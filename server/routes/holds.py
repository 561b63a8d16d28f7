"""`/v1/holds…`: what brigade detection held, and a reviewer's word on it."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from sqlmodel import Session

from feedback.access.audit import Act, note
from feedback.datasets.holds import decide_hold, list_holds, read_hold, said_in
from feedback.errors import NotFoundError
from feedback.storage.tables import RaterHold
from server.access import Caller
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier, listed_model
from server.views import FeedbackView, HoldContents, HoldView, Listed, listed, view
from server.wire import DecideHold

_REVIEW = {SCOPES: ("review",)}


@get("/v1/holds", opt=_REVIEW, sync_to_thread=True)
def holds(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    # under this name, as `state` alone is a word that Litestar keeps for itself
    of_state: Annotated[Literal["held", "released", "upheld"] | None, QueryParameter(name="state")] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[HoldView]:
    """What many new raters said about one target in a short time, newest first."""
    with gateway.database.reading() as session:
        wanted = listed_model(request.user, session, model)
        page = list_holds(session, wanted, of_state, limit, cursor)
        return listed(page, lambda row: view(HoldView, row))


@get("/v1/holds/{hold_id:str}", opt=_REVIEW, sync_to_thread=True)
def hold(hold_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> HoldContents:
    """One hold, with who said what in it."""
    with gateway.database.reading() as session:
        row = _row(session, hold_id, request.user)
        said = [view(FeedbackView, one) for one in said_in(session, row)]
        return view(HoldContents, row, said=said)


@post("/v1/holds/{hold_id:str}/decide", status_code=200, opt=_REVIEW, sync_to_thread=True)
def decide(
    hold_id: FromPath[str], data: JSONBody[DecideHold], request: GatewayRequest, gateway: Parts
) -> HoldView:
    """Let what is held count from the next dataset version on, or keep it out for good."""
    with gateway.database.session() as session:
        known = _row(session, hold_id, request.user)
        row = decide_hold(session, known.id, data.action, request.user.owner, gateway.now())
        act: Act = "hold.release" if data.action == "release" else "hold.uphold"
        note(session, request.user.actor, act, row.id, gateway.now(), model=row.model)
        session.commit()
        return view(HoldView, row)


def _row(session: Session, hold_id: str, caller: Caller) -> RaterHold:
    row = read_hold(session, identifier(hold_id, "a hold"))
    if not caller.reaches(row.model):
        raise NotFoundError(f"there is no hold {hold_id[:60]}; GET /v1/holds lists those there are")
    return row


ROUTES = [holds, hold, decide]
