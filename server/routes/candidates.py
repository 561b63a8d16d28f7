"""`/v1/candidates…`: corrections that models proposed, and a reviewer's word on them."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from feedback.datasets.candidates import list_candidates, review_candidate
from feedback.errors import NotFoundError
from feedback.storage.tables import Candidate
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier, listed_model
from server.views import CandidateView, Listed, listed, view
from server.wire import DecideCandidate

_REVIEW = {SCOPES: ("review",)}


@get("/v1/candidates", opt=_REVIEW, sync_to_thread=True)
def candidates(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    # under this name, as `state` alone is a word that Litestar keeps for itself
    of_state: Annotated[
        Literal["checked", "failed", "accepted", "rejected"] | None, QueryParameter(name="state")
    ] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[CandidateView]:
    """What a teacher or the model itself proposed, with what it passed, newest first."""
    with gateway.database.reading() as session:
        wanted = listed_model(request.user, session, model)
        page = list_candidates(session, wanted, of_state, limit, cursor)
        return listed(page, lambda row: view(CandidateView, row))


@post("/v1/candidates/{candidate_id:str}/decide", status_code=200, opt=_REVIEW, sync_to_thread=True)
def decide(
    candidate_id: FromPath[str], data: JSONBody[DecideCandidate], request: GatewayRequest, gateway: Parts
) -> CandidateView:
    """Accepted, it is trained on from the next dataset version on, where nobody's own correction stands.

    Where the model wants two reviewers, accepting it is one's word for its answer on the failure case, and it stays as it is.
    """
    wanted = identifier(candidate_id, "a candidate")
    with gateway.database.session() as session:
        known = session.get(Candidate, wanted)
        if known is not None and not request.user.reaches(known.model):
            raise NotFoundError(f"there is no candidate {wanted}; GET /v1/candidates lists those there are")
        caller = request.user
        row = review_candidate(
            session, wanted, data.action, caller.owner, caller.actor, gateway.settings, gateway.now()
        )
        session.commit()
        return view(CandidateView, row)


ROUTES = [candidates, decide]
