"""`/v1/messages/count_tokens`: how long a conversation is for a model, as Anthropic's API has it. Nothing of it is kept."""

from __future__ import annotations

import msgspec
from litestar import MediaType, Response, post

from feedback.errors import BadInputError, NotFoundError
from server.answers import read_error
from server.connections import BrokenAnswerError
from server.dialects.messages import MESSAGES_API, error_body
from server.errors import TOLD
from server.openapi import TokensOperation
from server.replicas import Replica
from server.request import SCOPES, GatewayRequest, Parts
from server.routing import chosen_by

PATH = f"{MESSAGES_API.path}/count_tokens"


@post(PATH, status_code=200, opt={SCOPES: ("infer",), TOLD: error_body}, operation_class=TokensOperation)
async def count_tokens(request: GatewayRequest, gateway: Parts) -> Response[bytes]:
    """Count the tokens of a conversation with its tools, where the engine serves the Messages API.

    The base counts, as its versions read text as it does.
    """
    body = MESSAGES_API.read(await request.body())
    route = chosen_by(request.user, body.model, await gateway.live.with_name(body.model))

    def asked(replica: Replica) -> bytes:
        content = msgspec.json.encode({**body.fields, "model": replica.base_name})
        return replica.connections.request("POST", PATH, content)

    async with gateway.engines.ask(route.base, asked, lambda _: None) as (connection, replica):
        status, content = connection.status, await connection.read_all(replica.patience)
    told = read_error(content)
    if status == 200:
        return Response(content, media_type=MediaType.JSON)
    if status == 501 or (status == 404 and told is None):
        raise NotFoundError(f"the engine of {route.model!r} does not serve {PATH}")
    if status in (400, 413, 422):
        raise BadInputError(told or f"the engine refused it with status {status}")
    raise BrokenAnswerError(f"the engine failed with status {status}: {told or 'it does not say why'}")


ROUTES = [count_tokens]
