"""A query parameter that a route of the hosted APIs does not have is refused by its name, on every one of them."""

from __future__ import annotations

import re

import pytest
from litestar.routes import HTTPRoute

from server.completion import Completion
from tests.server.inside import Inside
from tests.server.test_access import bearing, make_key

HOSTED = re.compile(r"/v1/(files|uploads|fine_tuning|batches|models|chat/completions)\b|/together/")
WITH_A_TICKET = "/together/v1/files/{file_id}/bytes"
"""Who has its ticket needs no key, and its address is one that was told."""


def routes(gateway: Inside) -> list[tuple[str, str]]:
    found = []
    for route in gateway.app.routes:
        if not isinstance(route, HTTPRoute) or not HOSTED.match(route.path_format):
            continue
        for method, (handler, _) in route.route_handler_map.items():
            answer = handler.parsed_fn_signature.return_type.annotation
            asks = answer is Completion  # goes on to the engine, whose parameters stand in the body
            if method != "OPTIONS" and not asks and route.path_format != WITH_A_TICKET:
                found.append((str(method), route.path_format))
    return found


def test_no_route_passes_over_a_parameter_that_it_does_not_have(gateway: Inside) -> None:
    key = bearing(make_key(gateway, "admin"))
    looked = routes(gateway)
    assert len(looked) > 45
    for method, path in looked:
        asked = re.sub(r"{[a-z_]+}", "assistant", path) + "?colour=red"
        told = gateway.call(method, asked, None if method in ("GET", "DELETE") else {}, key)
        assert told.status == 400, (method, path, told.body)
        assert told.json["error"]["param"] == "colour", (method, path, told.body)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/models", "/together/v1/fine-tunes"])
def test_who_may_not_call_it_is_told_that_first(gateway: Inside, path: str) -> None:
    key = bearing(make_key(gateway, "feedback"))
    assert gateway.call("GET", path + "?colour=red", None, key).status == 403
