"""`/widget.js` and `/widget`: what other applications' pages load, and how what they send is answered."""

from __future__ import annotations

from datetime import timedelta

import pytest

from feedback.ids import new_id
from tests.server.inside import Answer, Inside
from tests.server.test_access import make_key
from tests.server.test_reading_pages import visitor

SHOP = {"origin": "https://shop.example"}


def rate(gateway: Inside, inference_id: str, token: str, **more: object) -> Answer:
    """As the element sends it from a page of another site."""
    body = {"inference_id": inference_id, "feedback_token": token, "rating": 4, **more}
    return gateway.call("POST", "/v1/feedback", body, SHOP)


def asked(gateway: Inside) -> tuple[str, str]:
    headers = gateway.ask({"user": "ann"}).headers
    return headers["x-starloop-inference-id"], headers["x-starloop-feedback-token"]


def test_the_script_is_small_and_any_page_may_load_and_keep_it(gateway: Inside) -> None:
    make_key(gateway, "admin")  # from here on a stranger gets nothing that wants a key
    got = gateway.call("GET", "/widget.js", None, {**SHOP, "host": "star.example"}, "10.0.0.9")
    assert (got.status, got.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert len(got.body) <= 5_000
    assert got.headers["access-control-allow-origin"] == "*"
    assert got.headers["cross-origin-resource-policy"] == "cross-origin"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["cache-control"] == "public, max-age=3600" and not got.cookies


def test_who_keeps_the_script_is_told_that_it_is_still_so(gateway: Inside) -> None:
    got = gateway.call("GET", "/widget.js", None, SHOP)
    again = gateway.call("GET", "/widget.js", None, {**SHOP, "if-none-match": got.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    for name in ("etag", "cache-control", "access-control-allow-origin", "cross-origin-resource-policy"):
        assert again.headers[name] == got.headers[name], name
    assert gateway.call("GET", "/widget.js", None, {"if-none-match": '"older"'}).body == got.body


def test_the_script_needs_nothing_else_and_breaks_no_policy_of_the_page_around(gateway: Inside) -> None:
    text = gateway.call("GET", "/widget.js").body.decode()
    for forbidden in (
        "import ",
        "require(",
        "http:",
        "https:",
        "innerHTML",
        "eval(",
        "<style",
        "style=",
        "cookie",
    ):
        assert forbidden not in text, forbidden
    assert 'define("star-rating"' in text and 'credentials: "omit"' in text


def test_a_token_opens_the_way_from_another_site_and_a_rating_can_be_changed(gateway: Inside) -> None:
    inference_id, token = asked(gateway)
    preflight = {
        **SHOP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    may = gateway.call("OPTIONS", "/v1/feedback", None, preflight)
    assert (may.status, may.headers["access-control-allow-origin"]) == (204, "*")
    assert may.headers["access-control-allow-headers"] == "content-type"
    assert rate(gateway, inference_id, token, rating=2).status == 201
    again = rate(gateway, inference_id, token, rating=5)
    assert (again.status, again.headers["access-control-allow-origin"]) == (201, "*")
    said = gateway.record(inference_id)["feedback"]
    assert [one["rating"] for one in said if one["current"]] == [5] and {one["rater"] for one in said} == {
        "ann"
    }


def test_a_page_of_another_site_can_read_why_a_token_was_refused(gateway: Inside) -> None:
    inference_id, token = asked(gateway)
    inner = gateway.gateway
    late = inner.tokens.issue(inference_id, "ann", inner.now() - timedelta(days=400))
    for refused, words in (
        (rate(gateway, inference_id, late), "expired"),
        (rate(gateway, new_id(inner.now()), token), "does not belong"),
        (rate(gateway, inference_id, token, rater="bob"), "own user"),
    ):
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (403, "*")
        assert words in refused.json["error"]["message"]


def test_without_a_token_another_site_reads_nothing(gateway: Inside) -> None:
    inference_id, _ = asked(gateway)
    refused = gateway.call("POST", "/v1/feedback", {"inference_id": inference_id, "rating": 4}, SHOP)
    assert refused.status == 401 and "access-control-allow-origin" not in refused.headers


def test_the_page_has_the_lines_to_copy_and_asks_only_for_who_may(gateway: Inside) -> None:
    text = gateway.call("GET", "/widget").body.decode()
    assert '<script src="/widget.js" async></script>' in text and 'id="try"' in text
    assert '/widget.js" async&gt;&lt;/script&gt;' in text and "&lt;star-rating inference-id=" in text
    told = gateway.call("GET", "/widget", None, visitor(gateway, "review")).body.decode()
    assert 'id="try"' not in told and "sign in with the scope infer" in told
    other = gateway.call("GET", "/widget", None, visitor(gateway, "infer", models=["other"])).body.decode()
    assert "for no model that is served here" in other


@pytest.mark.parametrize("headers", [{"x-forwarded-for": "1.2.3.4"}, {"host": "evil.example"}], ids=str)
def test_a_stranger_is_asked_to_sign_in(gateway: Inside, headers: dict[str, str]) -> None:
    text = gateway.call("GET", "/widget", None, headers).body.decode()
    assert "Sign in first" in text and 'id="try"' not in text
