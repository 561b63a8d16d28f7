"""`/v1/erase`: a user's data, out of the record and everything made of it."""

from __future__ import annotations

from litestar import post
from litestar.params import JSONBody

from feedback.errors import NotAllowedError
from feedback.privacy.erasure import Erased, erase_user
from server.request import SCOPES, GatewayRequest, Parts
from server.wire import NewErasure


@post("/v1/erase", opt={SCOPES: ("admin",)}, status_code=200, sync_to_thread=True)
def erase(data: JSONBody[NewErasure], request: GatewayRequest, gateway: Parts) -> Erased:
    """Erase all that a user asked and said, of all models. It may take minutes; asked again after a 503, it goes on."""
    if request.user.models is not None:
        raise NotAllowedError("a user is erased from all models, and this key is only for some")
    return erase_user(gateway.database, gateway.settings, data.user, request.user.actor, gateway.now)


ROUTES = [erase]
