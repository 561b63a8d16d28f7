"""`/v1/audit`: who did what."""

from __future__ import annotations

from litestar import get
from litestar.params import FromQuery

from feedback.access.audit import Act, list_audit
from feedback.errors import NotAllowedError
from server.request import SCOPES, GatewayRequest, Limit, Parts
from server.views import AuditView, Listed, listed, view


@get("/v1/audit", opt={SCOPES: ("admin",)}, sync_to_thread=True)
def audit(
    request: GatewayRequest,
    gateway: Parts,
    act: FromQuery[Act | None] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[AuditView]:
    """Administrative acts, newest first. Only for keys that are for all models, as acts are on all."""
    if request.user.models is not None:
        raise NotAllowedError("the audit log is of all models, and this key is only for some")
    with gateway.database.reading() as session:
        return listed(list_audit(session, act, limit, cursor), lambda row: view(AuditView, row))


ROUTES = [audit]
