"""Who gets in, and how far: by key, and at this machine. Every route against everyone stands in `test_matrix.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest

from feedback.access.audit import list_audit
from feedback.access.keys import SCOPES, create_key, read_loop_key, revoke_key
from feedback.registry.models import list_moves
from tests.server.inside import HELLO, Inside
from tests.server.upstream import FakeEngine
from tests.server.versions import add_version

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "019b7700-0000-7000-8000-000000000000"


def make_key(gateway: Inside, *scopes: str, models: list[str] | None = None, owner: str = "someone") -> str:
    """A new key's secret, known to the gateway."""
    with gateway.gateway.database.session() as session:
        _, secret = create_key(session, scopes, owner, models, NOW)
        session.commit()
    gateway.gateway.live.refresh()
    return secret


def bearing(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


# -- without keys


def test_without_keys_this_machine_may_do_everything(gateway: Inside) -> None:
    for method, path in (("GET", "/v1/models"), ("GET", "/v1/inferences"), ("GET", "/schema")):
        assert gateway.call(method, path).status == 200
    assert gateway.ask(headers={"x-starloop-purpose": "evaluation"}).status == 200
    assert gateway.ask(headers=bearing("whatever the openai client was given")).status == 200


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.0.0.9", {}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"via": "1.1 proxy"}),
        ("127.0.0.1", {"host": "starloop.example"}),
        ("127.0.0.1", {"origin": "http://evil.example"}),
        ("127.0.0.1", {"origin": "null"}),
    ],
)
def test_without_keys_all_others_are_told_how_to_make_one(
    gateway: Inside, engine: FakeEngine, peer: str, headers: dict[str, str]
) -> None:
    routes: list[tuple[str, str, Any]] = [
        ("POST", "/v1/chat/completions", HELLO),
        ("GET", "/v1/models", None),
        ("GET", "/v1/inferences", None),
        ("POST", "/v1/feedback", {"inference_id": ID, "rating": 5}),
        ("POST", "/v1/models/assistant/promote", {"version": "base", "reason": "mine"}),
        ("GET", "/schema", None),
    ]
    for method, path, body in routes:
        answer = gateway.call(method, path, body, headers, peer)
        assert answer.status == 401, path
        assert "starloop keys create" in answer.json["error"]["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
    assert engine.completions() == []


def test_the_loops_own_key_works_and_does_not_close_the_door(gateway: Inside) -> None:
    secret = read_loop_key(gateway.settings.directory)
    assert secret is not None
    assert gateway.call("GET", "/v1/cycles", None, bearing(secret), "10.0.0.9").status == 200
    assert gateway.call("GET", "/v1/cycles").status == 200


def decided_by(gateway: Inside, headers: dict[str, str]) -> tuple[str, str]:
    """In whose name a promotion with these headers, taken back at once, stands in the moves and in the audit log."""
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    body = {"version": number, "reason": "tried it"}
    told = gateway.call("POST", "/v1/models/assistant/promote", body, headers)
    assert told.status == 200, told.body
    with gateway.gateway.database.reading() as session:
        (move, *_) = list_moves(session, "assistant", 1, None).items
        (row, *_) = list_audit(session, "champion.promote", 1, None).items
    assert move.id == row.details["move_id"]
    return move.decided_by, row.actor


def test_the_loops_own_key_acts_in_the_name_of_the_person_who_uses_it(gateway: Inside) -> None:
    secret = read_loop_key(gateway.settings.directory)
    assert secret is not None
    assert decided_by(gateway, bearing(secret)) == ("loop", "loop")
    assert decided_by(gateway, bearing(secret) | {"x-starloop-person": "ann"}) == ("ann", "ann")
    body = {"version": "base", "reason": "gate", "cycle_id": "c"}
    gateway.call("POST", "/v1/models/assistant/promote", body, bearing(secret) | {"x-starloop-person": "ann"})
    with gateway.gateway.database.reading() as session:
        assert list_moves(session, "assistant", 1, None).items[0].decided_by == "ann", "a person is no gate"


@pytest.mark.parametrize("name", ["", " ", "a" * 201])
def test_a_person_without_a_name_or_with_an_endless_one_is_refused(gateway: Inside, name: str) -> None:
    secret = read_loop_key(gateway.settings.directory)
    assert secret is not None
    answer = gateway.call("GET", "/v1/models", None, bearing(secret) | {"x-starloop-person": name})
    assert (answer.status, answer.json["error"]["param"]) == (400, "x-starloop-person")


def test_no_other_key_and_nobody_without_one_can_act_in_another_name(gateway: Inside) -> None:
    body = {"version": "base", "reason": "mine"}
    ann = {"x-starloop-person": "ann"}
    assert gateway.call("POST", "/v1/models/assistant/promote", body, ann).status == 403
    for owner in ("loop", "mallory"):
        headers = bearing(make_key(gateway, *SCOPES, owner=owner)) | ann
        answer = gateway.call("POST", "/v1/models/assistant/promote", body, headers)
        assert answer.status == 403
        assert "the loop's own key alone" in answer.json["error"]["message"]
    assert gateway.call("POST", "/v1/models/assistant/promote", body, ann).status == 401


# -- with keys


def test_a_key_that_is_called_loop_does_not_speak_for_the_gate(gateway: Inside) -> None:
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    body = {"version": number, "reason": "mine", "cycle_id": "cycle-1"}
    headers = bearing(make_key(gateway, "admin", owner="loop"))
    assert gateway.call("POST", "/v1/models/assistant/promote", body, headers).status == 200
    with gateway.gateway.database.reading() as session:
        assert list_moves(session, "assistant", 1, None).items[0].decided_by == "loop"


def test_a_key_without_an_owner_has_a_name_of_its_own(gateway: Inside) -> None:
    secret = make_key(gateway, "admin", owner="")
    (grant,) = (grant for grant in gateway.gateway.live.current.keys.values() if not grant.internal)
    name = f"key {grant.id[:8]}"
    assert decided_by(gateway, bearing(secret)) == (name, name)
    body = {"reason": "it was not"}
    assert gateway.call("POST", "/v1/models/assistant/rollback", body, bearing(secret)).status == 200
    assert gateway.call("POST", "/session", {"key": secret}).json["owner"] == name


def test_once_a_key_was_made_nobody_gets_in_without_one(gateway: Inside) -> None:
    secret = make_key(gateway, "infer")
    assert gateway.ask().status == 401
    assert gateway.ask(headers=bearing("sl-unknown")).json["error"]["code"] == "invalid_api_key"
    assert gateway.ask(headers=bearing(secret)).status == 200
    assert gateway.ask(headers={"authorization": f"bearer {secret}"}).status == 200
    assert gateway.ask(headers={"authorization": f"Basic {secret}"}).status == 401


@pytest.mark.alone
def test_a_revoked_key_is_refused_within_a_second_and_the_door_stays_shut(gateway: Inside) -> None:
    secret = make_key(gateway, "infer")
    with gateway.gateway.database.session() as session:
        identifier = next(
            grant.id for grant in gateway.gateway.live.current.keys.values() if grant.owner == "someone"
        )
        revoke_key(session, identifier, NOW)
        session.commit()
    deadline = monotonic() + 1
    while gateway.ask(headers=bearing(secret)).status == 200:
        assert monotonic() < deadline
    assert gateway.ask(headers=bearing(secret)).status == 401
    assert gateway.ask().status == 401


def test_a_key_for_some_models_reaches_no_other(gateway: Inside) -> None:
    other = make_key(gateway, "infer", "feedback", "review", "train", models=["other"])
    inference = gateway.ask(headers=bearing(make_key(gateway, "infer"))).headers["x-starloop-inference-id"]
    refused = gateway.ask(headers=bearing(other))
    assert (refused.status, "'assistant'" in refused.json["error"]["message"]) == (403, True)
    assert gateway.call("GET", "/v1/models", None, bearing(other)).json["data"] == []
    assert gateway.call("GET", "/v1/models/assistant", None, bearing(other)).status == 404
    assert gateway.call("GET", "/v1/models/assistant/versions", None, bearing(other)).status == 403
    assert gateway.call("GET", f"/v1/inferences/{inference}", None, bearing(other)).status == 404
    assert gateway.call("GET", "/v1/inferences?model=assistant", None, bearing(other)).status == 403
    told = gateway.call("POST", "/v1/feedback", {"inference_id": inference, "rating": 5}, bearing(other))
    assert told.status == 403
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    assert gateway.call("GET", "/v1/inferences", None, bearing(other)).json["items"] == []


def test_an_application_sees_its_own_inferences_and_a_reviewer_all(gateway: Inside) -> None:
    mine, theirs = make_key(gateway, "infer"), make_key(gateway, "infer")
    reviewer = make_key(gateway, "review")
    first = gateway.ask(headers=bearing(mine)).headers["x-starloop-inference-id"]
    second = gateway.ask(headers=bearing(theirs)).headers["x-starloop-inference-id"]
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)

    def seen(secret: str) -> set[str]:
        items = gateway.call("GET", "/v1/inferences", None, bearing(secret)).json["items"]
        one_by_one = {
            one
            for one in (first, second)
            if gateway.call("GET", f"/v1/inferences/{one}", None, bearing(secret)).status == 200
        }
        assert {item["id"] for item in items} == one_by_one
        return one_by_one

    assert (seen(mine), seen(theirs), seen(reviewer)) == ({first}, {second}, {first, second})


def test_only_admins_ask_for_other_purposes(gateway: Inside) -> None:
    purpose = {"x-starloop-purpose": "evaluation"}
    assert gateway.ask(headers={**bearing(make_key(gateway, "infer")), **purpose}).status == 403
    assert gateway.ask(headers={**bearing(make_key(gateway, "admin")), **purpose}).status == 200
