"""Canaries over HTTP: dealt by user at once, each answer named, over when it is ended."""

from __future__ import annotations

from collections import Counter

import pytest

from feedback.registry.arms import place_of, unit_of
from tests.server.inside import Inside
from tests.server.versions import add_version

ASK = {"messages": [{"role": "user", "content": "Hello?"}]}


@pytest.fixture
def number(gateway: Inside) -> str:
    """A registered version; the base is the champion."""
    made = add_version(gateway.gateway.database, gateway.settings.directory)
    gateway.gateway.live.refresh()
    return made


def begin(gateway: Inside, version: str, **more: object) -> dict[str, object]:
    told = gateway.call(
        "POST", "/v1/models/assistant/canary", {"version": version, "reason": "a test", **more}
    )
    assert told.status == 201, told.body
    made: dict[str, object] = told.json
    return made


def answered_by(gateway: Inside, user: str | None = None, headers: dict[str, str] | None = None) -> str:
    answer = gateway.ask(ASK | ({} if user is None else {"user": user}), headers)
    assert answer.status == 200, answer.body
    return answer.headers["x-starloop-version"]


def test_users_are_dealt_at_once_and_stay_where_they_are(gateway: Inside, number: str) -> None:
    made = begin(gateway, number, share=0.5, hours=2)
    assert (made["state"], made["against"], made["share"]) == ("open", "base", 0.5)
    users = [f"user-{n}" for n in range(40)]
    expected = {
        user: "assistant@1.0"
        if place_of(unit_of(user, None, ""), str(made["id"])) < 0.5
        else "assistant@base"
        for user in users
    }
    for _ in range(2):
        assert {user: answered_by(gateway, user) for user in users} == expected
    assert set(expected.values()) == {"assistant@1.0", "assistant@base"}


def test_requests_of_nobody_are_dealt_one_by_one_and_evaluations_not_at_all(
    gateway: Inside, number: str
) -> None:
    begin(gateway, number, share=0.5)
    got = Counter(answered_by(gateway) for _ in range(40))
    assert set(got) == {"assistant@1.0", "assistant@base"}
    evaluation = {"x-starloop-purpose": "evaluation"}
    assert {answered_by(gateway, None, evaluation) for _ in range(20)} == {"assistant@base"}


def test_it_ends_for_everybody_when_it_is_ended_and_is_told_with_its_reason(
    gateway: Inside, number: str
) -> None:
    begin(gateway, number, share=0.9)
    assert "assistant@1.0" in {answered_by(gateway, f"user-{n}") for n in range(10)}
    ended = gateway.call("POST", "/v1/models/assistant/canary/end", {"reason": "wrong one"})
    assert (ended.status, ended.json["state"], ended.json["reason"]) == (200, "withdrawn", "wrong one")
    assert {answered_by(gateway, f"user-{n}") for n in range(10)} == {"assistant@base"}
    items = gateway.call("GET", "/v1/models/assistant/canaries").json["items"]
    assert [(item["kind"], item["version"], item["state"]) for item in items] == [
        ("canary", number, "withdrawn")
    ]
    again = gateway.call("POST", "/v1/models/assistant/canary/end", {"reason": "again"})
    assert again.status == 409 and "no canary" in again.json["error"]["message"]


def test_promoting_it_ends_it_as_passed(gateway: Inside, number: str) -> None:
    begin(gateway, number)
    told = gateway.call("POST", "/v1/models/assistant/promote", {"version": number, "reason": "good"})
    assert told.status == 200
    (item,) = gateway.call("GET", "/v1/models/assistant/canaries").json["items"]
    assert (item["state"], item["reason"], item["share"]) == ("passed", "good", 0.2)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"version": "9.9", "reason": "x"}, 404, "no version"),
        ({"version": "base", "reason": "x"}, 409, "champion already"),
        ({"version": "1.0", "reason": "x", "share": 1}, 400, "share"),
        ({"version": "1.0", "reason": "x", "hours": 0}, 400, "hours"),
        ({"version": "1.0", "reason": "x", "instead_of": "0.9"}, 409, "was compared with assistant@0.9"),
        ({"version": "1.0"}, 400, "reason"),
        ({"version": "1.0", "reason": "x", "part": 0.1}, 400, "part"),
    ],
    ids=["unknown", "champion", "everybody", "no time", "other champion", "no reason", "typing slip"],
)
def test_what_makes_no_canary_is_refused_by_name(
    gateway: Inside, number: str, body: dict[str, object], status: int, said: str
) -> None:
    assert number == "1.0"
    told = gateway.call("POST", "/v1/models/assistant/canary", body)
    assert told.status == status and said in told.json["error"]["message"], told.body


def test_of_two_canaries_of_a_model_the_second_is_refused(gateway: Inside, number: str) -> None:
    other = add_version(gateway.gateway.database, gateway.settings.directory)
    begin(gateway, number)
    told = gateway.call("POST", "/v1/models/assistant/canary", {"version": other, "reason": "x"})
    assert told.status == 409 and "is in its canary" in told.json["error"]["message"]
