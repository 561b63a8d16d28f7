"""Sessions of the pages: a cookie that speaks for a key, and that no other site can use."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feedback.access.keys import create_key, list_keys, revoke_key
from tests.server.inside import HELLO, Answer, Inside, inside, settings_for
from tests.server.test_access import bearing, make_key
from tests.server.upstream import FakeEngine

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORIGIN = {"origin": "http://127.0.0.1:8000"}
CYCLE = {"model": "assistant"}


def sign_in(gateway: Inside, secret: str, headers: dict[str, str] | None = None) -> Answer:
    return gateway.call("POST", "/session", {"key": secret}, ORIGIN if headers is None else headers)


def carried(answer: Answer) -> dict[str, str]:
    """What a browser sends from then on, by itself."""
    return {"cookie": "; ".join(["theme=dark", *(cookie.partition(";")[0] for cookie in answer.cookies)])}


def guarded(answer: Answer) -> dict[str, str]:
    """What our own page adds, the browser's `Origin` too."""
    (guard,) = [cookie.partition(";")[0] for cookie in answer.cookies if "httponly" not in cookie.lower()]
    return {**carried(answer), **ORIGIN, "x-starloop-csrf": guard.partition("=")[2]}


def test_a_key_becomes_a_cookie_that_scripts_cannot_read(gateway: Inside) -> None:
    secret = make_key(gateway, "infer", "review", owner="rita")
    answer = sign_in(gateway, secret)
    assert (answer.status, answer.json["owner"], answer.json["scopes"]) == (201, "rita", ["infer", "review"])
    session, guard = sorted(answer.cookies, key=lambda cookie: "httponly" not in cookie.lower())
    for cookie in (session, guard):
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"samesite=strict", "path=/"} <= parts and "secure" not in parts
        assert 0 < int(next(part for part in parts if part.startswith("max-age="))[8:]) <= 12 * 3600
    assert session.startswith("starloop-session=") and "httponly" in session.lower()
    assert guard.startswith("starloop-csrf=") and "httponly" not in guard.lower()
    assert secret not in answer.body.decode() + session + guard


def test_over_tls_the_cookies_never_travel_without_it(gateway: Inside) -> None:
    secret = make_key(gateway, "infer")
    behind_proxy = sign_in(gateway, secret, {"origin": "https://star.example", "host": "star.example"})
    assert behind_proxy.status == 201
    assert all("secure" in cookie.lower() for cookie in behind_proxy.cookies)


def test_a_session_may_what_its_key_may_and_no_more(gateway: Inside) -> None:
    answer = sign_in(gateway, make_key(gateway, "infer"))
    assert gateway.call("GET", "/v1/models", None, carried(answer)).status == 200
    assert gateway.call("GET", "/v1/failures", None, carried(answer)).status == 403
    asked = gateway.ask(headers=guarded(answer))
    assert asked.status == 200
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    own = gateway.call("GET", "/v1/inferences", None, carried(answer)).json["items"]
    assert [item["id"] for item in own] == [asked.headers["x-starloop-inference-id"]]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"x-starloop-csrf": ""},
        {"x-starloop-csrf": "0" * 64},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": ""},
        {"host": "evil.example"},
    ],
    ids=str,
)
def test_another_sites_page_changes_nothing(
    gateway: Inside, engine: FakeEngine, spoilt: dict[str, str]
) -> None:
    answer = sign_in(gateway, make_key(gateway, "admin"))
    headers = guarded(answer) | spoilt
    for method, path, body in (
        ("POST", "/v1/chat/completions", HELLO),
        ("POST", "/v1/cycles", CYCLE),
        ("POST", "/v1/feedback", {"inference_id": "019b7700-0000-7000-8000-000000000000", "rating": 1}),
        ("DELETE", "/session", None),
    ):
        refused = gateway.call(method, path, body, headers)
        assert (refused.status, refused.json["error"]["type"]) == (403, "permission_error"), path
        assert refused.cookies == []
    assert engine.completions() == []
    assert gateway.call("POST", "/v1/cycles", CYCLE, guarded(answer)).status == 202


def test_the_guard_of_another_session_does_not_fit(gateway: Inside) -> None:
    secret = make_key(gateway, "train")
    mine, theirs = sign_in(gateway, secret), sign_in(gateway, secret)
    mixed = guarded(theirs) | carried(mine)
    assert gateway.call("POST", "/v1/cycles", CYCLE, mixed).status == 403


def test_a_key_in_the_header_needs_no_guard_and_goes_before_the_cookie(gateway: Inside) -> None:
    weak = sign_in(gateway, make_key(gateway, "infer"))
    strong = bearing(make_key(gateway, "train"))
    assert gateway.call("POST", "/v1/cycles", CYCLE, {**carried(weak), **strong}).status == 202
    unknown = {**guarded(weak), **bearing("sl-unknown")}
    assert gateway.call("GET", "/v1/models", None, unknown).status == 401


def test_revoking_the_key_ends_its_sessions(gateway: Inside) -> None:
    answer = sign_in(gateway, make_key(gateway, "infer", owner="rita"))
    with gateway.gateway.database.session() as session:
        key = next(key for key in list_keys(session) if key.owner == "rita")
        revoke_key(session, key.id, START)
        session.commit()
    gateway.gateway.live.refresh()
    assert gateway.call("GET", "/v1/models", None, carried(answer)).status == 401


def test_signing_out_takes_the_cookies_away_also_when_the_session_has_ended(gateway: Inside) -> None:
    answer = sign_in(gateway, make_key(gateway, "infer"))
    ended = {"cookie": "starloop-session=nonsense"}
    for headers in (guarded(answer), ended, {}):
        left = gateway.call("DELETE", "/session", None, headers)
        assert left.status == 204
        assert len(left.cookies) == 2 and all("max-age=0" in cookie.lower() for cookie in left.cookies)


@pytest.mark.parametrize("headers", [{}, ORIGIN])
def test_a_key_that_is_none_begins_no_session(gateway: Inside, headers: dict[str, str]) -> None:
    make_key(gateway, "infer")
    refused = sign_in(gateway, "sl-unknown-and-secret", headers)
    assert (refused.status, refused.cookies) == (401, [])
    assert b"sl-unknown-and-secret" not in refused.body
    for body in ({}, {"key": ""}, {"key": 5}, {"key": "x" * 300}, {"key": "x", "more": 1}):
        assert gateway.call("POST", "/session", body, headers).status == 400


def test_another_sites_page_signs_nobody_in(gateway: Inside) -> None:
    secret = make_key(gateway, "infer")
    for origin in ("http://evil.example", "null"):
        refused = sign_in(gateway, secret, {"origin": origin})
        assert (refused.status, refused.cookies) == (403, [])


class Clock:
    now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(engine: FakeEngine, data: Path, clock: Clock) -> Iterator[Inside]:
    with inside(settings_for(data, [engine.url]), clock) as running:
        yield running


def test_a_session_ends_by_itself_or_with_its_key(timed: Inside, clock: Clock) -> None:
    with timed.gateway.database.session() as session:
        _, long = create_key(session, ["infer"], "", None, START)
        _, short = create_key(session, ["infer"], "", None, START, expires=START + timedelta(hours=1))
        session.commit()
    timed.gateway.live.refresh()
    sessions = [carried(sign_in(timed, secret)) for secret in (long, short)]

    def statuses() -> list[int]:
        return [timed.call("GET", "/v1/models", None, one).status for one in sessions]

    clock.now = START + timedelta(hours=1, microseconds=-1)
    assert statuses() == [200, 200]
    clock.now = START + timedelta(hours=1)
    assert statuses() == [200, 401]
    clock.now = START + timedelta(hours=12)
    assert statuses() == [401, 401]


# -- the page


def test_the_page_shows_a_session_what_its_key_may_see(gateway: Inside) -> None:
    gateway.ask({"messages": [{"role": "user", "content": "A secret"}]})
    own = sign_in(gateway, make_key(gateway, "infer"))
    gateway.ask({"messages": [{"role": "user", "content": "My own question"}]}, guarded(own))
    reviewer = sign_in(gateway, make_key(gateway, "review"))
    trainer = sign_in(gateway, make_key(gateway, "train"))
    other = sign_in(gateway, make_key(gateway, "review", models=["other"]))
    several = sign_in(gateway, make_key(gateway, "review", models=["assistant", "other"]))
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)

    def shown(answer: Answer) -> list[bool]:
        page = gateway.call("GET", "/", None, carried(answer))
        assert page.status == 200 and b"Sign out" in page.body
        return [text in page.body for text in (b"A secret", b"My own question", b">assistant</option>")]

    assert shown(own) == [False, True, True]
    assert shown(reviewer) == [True, True, True]
    assert shown(trainer) == [False, False, True]
    assert shown(other) == [False, False, False]
    assert shown(several) == [False, False, True]


def test_the_pages_script_keeps_no_key(gateway: Inside) -> None:
    script = "".join(
        gateway.call("GET", f"/static/{name}.js").body.decode() for name in ("chat", "every", "page")
    )
    assert "sessionStorage" not in script and "localStorage" not in script and "authorization" not in script
    assert "x-starloop-csrf" in script
    assert b"Sign out" not in gateway.call("GET", "/").body
