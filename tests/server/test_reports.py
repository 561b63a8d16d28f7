"""`GET /v1/reports`: the same report over HTTP, in three forms, made in a process of its own."""

from __future__ import annotations

from tests.server.inside import Inside


def test_a_report_comes_in_three_forms_and_wrong_months_are_told(gateway: Inside) -> None:
    plain = gateway.call("GET", "/v1/reports?model=assistant")
    assert plain.status == 200 and plain.json["model"] == "assistant"
    page = gateway.call("GET", "/v1/reports?model=assistant&format=html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = gateway.call("GET", "/v1/reports?model=assistant&format=md")
    assert text.body.startswith(b"# assistant in ")
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    for field, value in (("month", "2026-13"), ("month", ""), ("format", "pdf")):
        wrong = gateway.call("GET", f"/v1/reports?model=assistant&{field}={value}")
        assert wrong.status == 400 and wrong.json["error"]["param"] == field
    assert gateway.call("GET", "/v1/reports?model=nobody").status == 404
