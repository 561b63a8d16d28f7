"""`GET /v1/reports`: the same report over HTTP, in three forms, made in a process of its own."""

from __future__ import annotations

from tests.server.inside import Inside


def test_a_report_comes_in_three_forms_and_wrong_months_are_told(gateway: Inside) -> None:
    plain = gateway.call("GET", "/v1/reports?model=assistant")
    assert plain.status == 200 and plain.json["model"] == "assistant"
    page = gateway.call("GET", "/v1/reports?model=assistant&format=html")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert gateway.call("GET", "/v1/reports?model=assistant&format=md").body.startswith(b"# assistant in ")
    wrong = gateway.call("GET", "/v1/reports?model=assistant&month=2026-13")
    assert wrong.status == 400 and wrong.json["error"]["param"] == "month"
    assert gateway.call("GET", "/v1/reports?model=nobody").status == 404
