"""The official client, whose requests go to the application inside the test's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import openai

from tests.server.inside import Inside
from tests.server.test_access import make_key

Client = Callable[[str], openai.OpenAI]


class Into(httpx.BaseTransport):
    """Requests of a client, handed to the application as they are."""

    def __init__(self, gateway: Inside) -> None:
        self._gateway = gateway

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        path = request.url.raw_path.decode()
        told = self._gateway.call(request.method, path, request.read(), headers | {"host": "127.0.0.1:8000"})
        return httpx.Response(told.status, headers=told.headers, content=told.body)


@contextmanager
def clients(gateway: Inside) -> Iterator[Client]:
    """Makes clients by their keys."""
    made: list[openai.OpenAI] = []

    def as_key(secret: str = "none") -> openai.OpenAI:
        http = httpx.Client(transport=Into(gateway))
        address = "http://127.0.0.1:8000/v1"
        made.append(openai.OpenAI(api_key=secret, base_url=address, http_client=http, max_retries=0))
        return made[-1]

    yield as_key
    for one in made:
        one.close()


def team(gateway: Inside, client: Client) -> list[openai.OpenAI]:
    """Clients of two who train, of an admin, and of an admin of another model alone."""
    return [
        client(make_key(gateway, scope, owner=owner, models=models))
        for scope, owner, models in (
            ("train", "ann", None),
            ("train", "bob", None),
            ("admin", "ada", None),
            ("admin", "eve", ["other"]),
        )
    ]
