"""Health as balancers ask for it."""

from __future__ import annotations

import pytest

from tests.server.inside import Inside
from tests.server.upstream import FakeEngine


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_head_answers_as_get_does_without_a_body(gateway: Inside, engine: FakeEngine, path: str) -> None:
    asked = gateway.call("GET", path)
    told = gateway.call("HEAD", path)
    assert (told.status, told.body) == (asked.status, b"") == (200, b"")
    engine.healthy = False
    gateway.wait_for(gateway.gateway.engines.missing)
    assert gateway.call("HEAD", path).status == gateway.call("GET", path).status
    assert gateway.call("GET", "/health/ready").status == 503
