"""What users say: from an application with a key, from a browser with a token, early, late and twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from feedback.ids import new_id
from feedback.storage.records import FeedbackRecord, InferenceRecord
from feedback.storage.verify import verify
from tests.server.inside import Answer, Inside
from tests.server.test_access import bearing, make_key


def rate(gateway: Inside, inference: str, headers: dict[str, str] | None = None, **said: Any) -> Answer:
    body = {"inference_id": inference, **(said or {"rating": 4})}
    return gateway.call("POST", "/v1/feedback", body, headers)


def asked(gateway: Inside, **fields: Any) -> tuple[str, str]:
    """An inference's id and its feedback token."""
    headers = gateway.ask(fields).headers
    return headers["x-starloop-inference-id"], headers["x-starloop-feedback-token"]


def test_feedback_is_answered_with_what_was_stored_and_stands_in_the_record(gateway: Inside) -> None:
    inference, _ = asked(gateway)
    said = {"rating": 2, "comment": "no", "correction": "yes", "tags": ["tone"], "rater": "ann", "choice": 0}
    told = rate(gateway, inference, **said)
    assert told.status == 201
    expected = {**said, "inference_id": inference, "source": "user", "current": True}
    assert {name: told.json[name] for name in expected} == expected
    (kept,) = gateway.record(inference)["feedback"]
    assert kept == told.json


def test_the_id_is_taken_as_the_openai_client_shows_it(gateway: Inside) -> None:
    answer = gateway.ask()
    assert rate(gateway, answer.json["id"]).status == 201
    assert rate(gateway, "cmpl-" + answer.headers["x-starloop-inference-id"]).status == 201


def test_a_preference_is_kept_with_the_answer_that_was_better(gateway: Inside) -> None:
    better, token = asked(gateway)
    worse, _ = asked(gateway)
    told = rate(gateway, better, feedback_token=token, preferred_over=f"chatcmpl-{worse}")
    assert (told.status, told.json["preferred_over"]) == (201, worse)
    (kept,) = gateway.record(better)["feedback"]
    assert (kept["preferred_over"], kept["rating"]) == (worse, None)
    itself = rate(gateway, better, preferred_over=better)
    assert (itself.status, itself.json["error"]["param"]) == (400, "preferred_over")


def test_a_later_word_of_the_same_rater_replaces_the_earlier_and_history_stays(gateway: Inside) -> None:
    inference, _ = asked(gateway)
    rate(gateway, inference, rating=1, rater="ann")
    rate(gateway, inference, rating=5, rater="bob")
    rate(gateway, inference, rating=4, rater="ann")
    kept = gateway.record(inference)
    assert [(one["rater"], one["rating"], one["current"]) for one in kept["feedback"]] == [
        ("ann", 1, False),
        ("bob", 5, True),
        ("ann", 4, True),
    ]
    assert kept["rating"] == 4


def test_the_rater_is_who_was_named_else_the_inferences_user_else_the_keys_owner(gateway: Inside) -> None:
    with_user, _ = asked(gateway, user="ann")
    without, _ = asked(gateway)
    assert rate(gateway, with_user, rating=1, rater="bob").json["rater"] == "bob"
    assert rate(gateway, with_user).json["rater"] == "ann"
    assert rate(gateway, without).json["rater"] == "local"


@pytest.mark.parametrize(
    ("correction", "kept"),
    [
        ("Paris", "Paris"),
        ({"role": "assistant", "content": "Paris"}, "Paris"),
        (
            {"role": "assistant", "tool_calls": [{"id": "1"}]},
            '{"role":"assistant","tool_calls":[{"id":"1"}]}',
        ),
    ],
)
def test_a_correction_is_a_text_or_an_assistant_message(gateway: Inside, correction: Any, kept: str) -> None:
    inference, _ = asked(gateway)
    assert rate(gateway, inference, correction=correction).json["correction"] == kept


# -- by token


def test_a_token_speaks_for_the_user_of_its_inference_alone(gateway: Inside) -> None:
    make_key(gateway, "infer")
    key = bearing(make_key(gateway, "infer"))
    mine = gateway.ask({"user": "ann"}, key).headers
    other = gateway.ask({"user": "bob"}, key).headers
    token = {"feedback_token": mine["x-starloop-feedback-token"]}
    told = rate(gateway, mine["x-starloop-inference-id"], rating=1, **token)
    assert (told.status, told.json["rater"], told.json["source"]) == (201, "ann", "user")
    assert rate(gateway, other["x-starloop-inference-id"], rating=1, **token).status == 403
    assert rate(gateway, mine["x-starloop-inference-id"], rating=1, rater="bob", **token).status == 403
    assert rate(gateway, mine["x-starloop-inference-id"], rating=1).status == 401


def test_a_token_of_an_inference_without_a_user_speaks_for_anyone(gateway: Inside) -> None:
    inference, token = asked(gateway)
    assert rate(gateway, inference, rating=1, feedback_token=token).json["rater"] == "anonymous"


@pytest.mark.parametrize(
    "spoil", [lambda t: t[:-2] + "xx", lambda t: "", lambda t: "a.b.c", lambda t: "x" * 3000]
)
def test_a_forged_token_is_refused(gateway: Inside, spoil: Any) -> None:
    inference, token = asked(gateway)
    assert rate(gateway, inference, rating=1, feedback_token=spoil(token)).status == 403


def test_a_token_that_is_sent_again_can_only_replace_its_own_word(gateway: Inside) -> None:
    inference, token = asked(gateway)
    for rating in (5, 1, 1, 3):
        assert rate(gateway, inference, rating=rating, feedback_token=token).status == 201
    said = gateway.record(inference)["feedback"]
    assert len(said) == 4
    assert [one["rating"] for one in said if one["current"]] == [3]


def test_a_token_expires(gateway: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    inference, token = asked(gateway)
    now = gateway.gateway.now()
    days = gateway.settings.server.feedback_token_days
    monkeypatch.setattr(gateway.gateway, "now", lambda: now + timedelta(days=days, seconds=5))
    told = rate(gateway, inference, rating=1, feedback_token=token)
    assert (told.status, "expired" in told.json["error"]["message"]) == (403, True)


def test_any_page_may_send_feedback_by_token_and_nothing_else(gateway: Inside) -> None:
    inference, token = asked(gateway)
    page = {"origin": "https://shop.example"}
    told = rate(gateway, inference, page, rating=1, feedback_token=token)
    assert (told.status, told.headers["access-control-allow-origin"]) == (201, "*")
    refused = rate(gateway, inference, page, rating=1)
    assert refused.status == 401
    assert "access-control-allow-origin" not in refused.headers
    asking = {
        **page,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    preflight = gateway.call("OPTIONS", "/v1/feedback", None, asking)
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "content-type"
    for path in ("/v1/chat/completions", "/v1/inferences"):
        assert "access-control-allow-origin" not in gateway.call("OPTIONS", path, None, asking).headers


# -- by key


def test_a_key_made_for_review_makes_a_reviewer_and_loopback_makes_none(gateway: Inside) -> None:
    inference, _ = asked(gateway)
    assert rate(gateway, inference).json["source"] == "user"
    reviewer = bearing(make_key(gateway, "feedback", "review", owner="rita"))
    application = bearing(make_key(gateway, "feedback", owner="shop"))
    told = rate(gateway, inference, reviewer, correction="right")
    assert (told.json["source"], told.json["rater"]) == ("reviewer", "rita")
    assert rate(gateway, inference, application).json["source"] == "user"


def test_feedback_needs_its_own_scope(gateway: Inside) -> None:
    inference, _ = asked(gateway)
    assert rate(gateway, inference, bearing(make_key(gateway, "infer", "review"))).status == 403


# -- early, late, never


def test_the_rater_that_nobody_named_is_the_inferences_user_though_the_inference_comes_later(
    gateway: Inside,
) -> None:
    """As when another worker answered and the database was away: nobody could say whose inference it is."""
    moment = gateway.gateway.now()
    known = InferenceRecord(
        id=new_id(moment),
        created=moment.timestamp(),
        model="assistant",
        version="base",
        user="eve",
        status=200,
        latency_ms=1.0,
    )
    late = FeedbackRecord(
        id=new_id(moment),
        inference_id=known.id,
        created=moment.timestamp(),
        rater="shop",
        rating=2,
        assumed=True,
    )
    named = msgspec.structs.replace(late, id=new_id(moment), assumed=False, rating=4)
    journal = gateway.gateway.journal
    journal.append([late, named])
    gateway.wait_for(lambda: journal.backlog() == 0)
    later = new_id(moment + timedelta(seconds=1))
    journal.append([known, msgspec.structs.replace(late, id=later, rating=5)])
    shown = gateway.record(known.id)["feedback"]
    assert {(one["rater"], one["rating"], one["current"]) for one in shown} == {
        ("eve", 2, False),
        ("shop", 4, True),
        ("eve", 5, True),
    }
    assert verify(gateway.gateway.database, gateway.gateway.settings.directory).sound


def test_feedback_waits_for_an_inference_that_is_on_its_way(gateway: Inside) -> None:
    inference, _ = asked(gateway, user="eve")
    gateway.gateway.capture._recent.clear()  # as in a worker that did not answer it
    told = rate(gateway, inference, bearing(make_key(gateway, "feedback", owner="shop")), rating=3)
    assert (told.status, told.json["rater"]) == (201, "eve")


def test_feedback_that_is_earlier_than_its_inference_is_accepted_and_joined(gateway: Inside) -> None:
    early = new_id(gateway.gateway.now())
    told = rate(gateway, early, rating=3)
    assert told.status == 202
    assert told.json["inference_id"] == early


@pytest.mark.parametrize("age", [timedelta(minutes=11), timedelta(days=400), -timedelta(hours=1)])
def test_feedback_for_an_inference_that_never_was_is_404(gateway: Inside, age: timedelta) -> None:
    assert rate(gateway, new_id(gateway.gateway.now() - age)).status == 404


def test_feedback_finds_an_inference_that_only_the_database_remembers(gateway: Inside) -> None:
    inference, _ = asked(gateway, user="ann")
    gateway.record(inference)
    gateway.gateway.capture._recent.clear()
    told = rate(gateway, inference)
    assert (told.status, told.json["rater"]) == (201, "ann")


# -- nonsense


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"rating": 0}, "rating"),
        ({"rating": 6}, "rating"),
        ({"rating": 3.5}, "rating"),
        ({"rating": "5"}, "rating"),
        ({"rating": True}, "rating"),
        ({"comment": 5}, "comment"),
        ({"correction": ""}, "correction"),
        ({"correction": "  "}, "correction"),
        ({"correction": ["x"]}, "correction"),
        ({"correction": {"role": "user", "content": "x"}}, "correction.role"),
        ({"correction": {"role": "assistant", "content": ""}}, "correction"),
        ({"correction": {"role": "assistant", "texte": "x"}}, "correction.texte"),
        ({"tags": "x"}, "tags"),
        ({"tags": ["x" * 65]}, "tags[0]"),
        ({"rating": 1, "tags": ["x"] * 33}, "tags"),
        ({"rating": 1, "rater": ""}, "rater"),
        ({"rating": 1, "rater": "r" * 300}, "rater"),
        ({"rating": 1, "choice": -1}, "choice"),
        ({"rating": 1, "ratng": 2}, "ratng"),
        ({"preferred_over": "x"}, "preferred_over"),
        ({"preferred_over": 5}, "preferred_over"),
        ({"comment": ""}, None),
        ({"tags": []}, None),
        ({"choice": 1}, None),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name_and_nothing_is_kept(
    gateway: Inside, said: dict[str, Any], param: str | None
) -> None:
    inference, _ = asked(gateway)
    told = rate(gateway, inference, **said)
    assert (told.status, told.json["error"]["param"]) == (400, param), told.body
    assert gateway.record(inference)["feedback"] == []


@pytest.mark.parametrize(
    "inference", ["", "x", "../x", "chatcmpl-", "00000000-0000-4000-8000-000000000000", 5, None, "0" * 5000]
)
def test_an_id_that_is_none_is_refused(gateway: Inside, inference: Any) -> None:
    told = gateway.call("POST", "/v1/feedback", {"inference_id": inference, "rating": 1})
    assert (told.status, told.json["error"]["param"]) == (400, "inference_id")
