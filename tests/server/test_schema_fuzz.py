"""Every route of the OpenAPI schema under schemathesis: whatever is sent, no answer is a server's error, and none is late."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from feedback.settings import Settings
from server.app import create_app
from tests.server.served import Served, served
from tests.server.upstream import fake_engine

OPERATIONS = sorted(
    (
        (method, path)
        for path, item in sorted((create_app(Settings()).openapi_schema.to_schema()["paths"]).items())
        for method in sorted(item)
    ),
    key=lambda one: one == ("post", "/v1/keys"),  # last: with the first key, who has none is shut out
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fake_engine() as engine, served(tmp_path_factory.mktemp("fuzz"), [engine.url]) as running:
        yield running


@pytest.fixture(scope="module")
def api(gateway: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{gateway.address}/schema/openapi.json")


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_route_answers_whatever_is_sent(api: schemathesis.BaseSchema, method: str, path: str) -> None:
    @given(case=api[path][method.upper()].as_strategy())
    @settings(
        max_examples=2 if path.endswith("/draw") else 25,  # that one starts a process
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def sent(case: schemathesis.Case) -> None:
        # What is well formed may still name nothing that there is, or be for another state of things.
        case.call_and_validate(timeout=10, excluded_checks=[positive_data_acceptance])

    sent()
