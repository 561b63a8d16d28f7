"""`/v1/candidates…`: corrections that models proposed, and a reviewer's word on them."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from feedback.access.audit import Act, note
from feedback.datasets.candidates import decide_candidate, list_candidates, reviewed_proposal
from feedback.datasets.failures import resolve_failure
from feedback.errors import NotFoundError
from feedback.storage.tables import Candidate
from server.request import SCOPES, GatewayRequest, Limit, Parts, identifier
from server.views import CandidateView, Listed, listed, view
from server.wire import DecideCandidate

_REVIEW = {SCOPES: ("review",)}


@get("/v1/candidates", opt=_REVIEW, sync_to_thread=True)
def candidates(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    # under this name, as `state` alone is a word that Litestar keeps for itself
    decision: Annotated[
        Literal["checked", "failed", "accepted", "rejected"] | None, QueryParameter(name="state")
    ] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[CandidateView]:
    """What a teacher or the model itself proposed, with what it passed, newest first."""
    wanted = request.user.narrowed(model)
    with gateway.database.reading() as session:
        page = list_candidates(session, wanted, decision, limit, cursor)
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
        configured = gateway.settings.model_named(known.model) if known is not None else None
        if data.action == "accept" and configured is not None and configured.reviewers > 1:
            proposal = reviewed_proposal(session, wanted)
            if proposal is not None:
                case, answer = proposal
                resolve_failure(
                    session, case, "correct", answer, request.user.owner, gateway.settings, gateway.now()
                )
                facts = {"model": configured.name, "action": "correct", "candidate": wanted}
                note(session, request.user.actor, "failure.resolve", case, gateway.now(), **facts)
                session.commit()
                return view(CandidateView, known)
        row = decide_candidate(session, wanted, data.action, request.user.owner, gateway.now())
        act: Act = "candidate.accept" if data.action == "accept" else "candidate.reject"
        note(session, request.user.actor, act, row.id, gateway.now(), model=row.model)
        session.commit()
        return view(CandidateView, row)


ROUTES = [candidates, decide]
