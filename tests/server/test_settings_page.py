"""`/settings` and `/v1/keys`: keys made, shown once and closed; raters, configuration and health."""

from __future__ import annotations

import re
from typing import Any

from feedback.datasets.believed import Belief
from feedback.datasets.raters import Figures
from feedback.storage.tables import Lease
from tests.server.inside import HELLO, Inside, found_by
from tests.server.test_access import bearing, make_key
from tests.server.test_cycle_pages import page
from tests.server.test_reading_pages import visitor
from tests.server.test_session import carried, guarded, sign_in

EVIL = "<img src=x onerror=alert(1)>"
LIAR = Figures(EVIL, 12, 1.0, 0.2, 9.0, 0.1, 0.21, True)


def made(gateway: Inside, headers: dict[str, str], **wanted: Any) -> Any:
    answer = gateway.call("POST", "/v1/keys", {"scopes": ["infer"], **wanted}, headers)
    assert answer.status == 201, answer.body
    assert answer.headers["cache-control"] == "no-store"
    return answer.json


def test_a_key_is_shown_once_works_at_once_and_ends_when_it_is_revoked(gateway: Inside) -> None:
    admin = bearing(make_key(gateway, "admin", owner="ada"))
    new = made(gateway, admin, owner=EVIL, models=["assistant"], limits={"rpm": 5}, expires="90d")
    key, secret = new["key"], new["secret"]
    assert (key["owner"], key["models"], key["limits"]) == (EVIL, ["assistant"], {"rpm": 5})
    assert gateway.call("POST", "/v1/chat/completions", HELLO, bearing(secret)).status == 200

    everything = gateway.call("GET", "/v1/keys", None, admin)
    assert {one["owner"] for one in everything.json["items"]} == {"loop", "ada", EVIL}
    text = page(gateway, "/settings", admin)
    assert secret not in text + everything.body.decode() and key["id"] in text

    assert gateway.call("POST", f"/v1/keys/{key['id']}/revoke", None, admin).json["revoked"]
    assert gateway.call("POST", "/v1/chat/completions", HELLO, bearing(secret)).status == 401
    assert key["id"] not in page(gateway, "/settings", admin)
    assert key["id"] in page(gateway, "/settings?revoked=1", admin)


def test_what_revoking_the_loops_own_key_does_stands_beside_it(gateway: Inside) -> None:
    text = page(gateway, "/settings")
    assert "both are refused until the loop starts again, which makes a new one" in text
    assert text.count("data-revoke=") == 1 and re.search('aria-describedby="key-1 loop-1">Revoke', text)


def test_a_key_that_cannot_be_is_refused_by_field(gateway: Inside) -> None:
    admin = bearing(make_key(gateway, "admin"))
    for wrong, field in (
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes[0]"),
        ({"models": ["nobody"]}, "models"),
        ({"limits": {"rpm": 0}}, "limits.rpm"),
        ({"expires": "yesterday"}, "expires"),
    ):
        answer = gateway.call("POST", "/v1/keys", {"scopes": ["infer"], **wrong}, admin)
        assert (answer.status, answer.json["error"]["param"]) == (400, field), answer.body
    assert gateway.call("POST", "/v1/keys/nonsense/revoke", None, admin).status == 400


def test_a_key_for_some_models_makes_none_for_all_and_sees_neither_keys_nor_configuration(
    gateway: Inside,
) -> None:
    begun = sign_in(gateway, make_key(gateway, "admin", models=["assistant"]))
    assert gateway.call("POST", "/v1/keys", {"scopes": ["admin"]}, guarded(begun)).status == 403
    text = page(gateway, "/settings", carried(begun))
    assert "Health" in text and "storage.directory" not in text and "Make a key" not in text


def test_others_than_administrators_are_told_whom_the_page_is_for(gateway: Inside) -> None:
    text = page(gateway, "/settings", visitor(gateway, "review", "train"))
    assert "for keys with the scope admin" in text and "journal" not in text


def test_raters_are_shown_with_the_evidence_against_them(gateway: Inside) -> None:
    found_by(gateway.gateway.beliefs, lambda model, now: Belief(0.8, {EVIL: 0.21}, [LIAR]))
    assert "Being weighed" in page(gateway, "/settings")
    gateway.eventually(lambda: gateway.gateway.beliefs.get("assistant") is not None)
    text = page(gateway, "/settings")
    assert "agrees with others in 10% of 9.0 comparisons" in text and "&lt;img src=x" in text
    assert "/inferences?model=assistant&amp;user=%3Cimg" in text


def test_health_names_each_part_and_configuration_each_value(gateway: Inside) -> None:
    text = page(gateway, "/settings").replace("<wbr>", "")
    for shown in (
        "engine starter",
        "SQLite: answers",
        "all is in the database",
        "nobody leads",
        "GB free",
        "server.upload_limit",
    ):
        assert shown in text, shown
    assert "<code>starloop up</code>" in text and "`" not in text
    now = gateway.gateway.now().timestamp()
    with gateway.gateway.database.session() as session:
        session.add(Lease(name="loop", holder="here:1", expires=now + 60))
        session.commit()
    assert "led by here:1" in page(gateway, "/settings")
