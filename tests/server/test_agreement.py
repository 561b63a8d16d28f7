"""Two reviewers on one case, unseen by each other; and one decision on all cases that are alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.datasets.agreement import Agreement, agreement
from feedback.datasets.believed import Belief
from feedback.privacy.erasure import erase_user
from feedback.storage.review_tables import ReviewOpinion
from feedback.storage.tables import Failure
from tests.server.inside import Answer, Inside, found_by, inside, settings_for
from tests.server.test_access import bearing, make_key
from tests.server.test_review_page import EVIL, RIGHT, claim, waiting
from tests.server.test_session import carried, sign_in
from tests.server.upstream import FakeEngine

OTHER = '{"intent": "login", "urgency": "low"}'


@pytest.fixture
def gateway(engine: FakeEngine, data: Path) -> Iterator[Inside]:
    """A gateway whose model wants two reviewers."""
    settings = settings_for(data, [engine.url])
    with inside(replace(settings, model=[replace(settings.model[0], reviewers=2)])) as running:
        found_by(running.gateway.beliefs, lambda model, now: Belief())
        yield running


def reviewers(gateway: Inside) -> dict[str, dict[str, str]]:
    """Their headers by name; `ann again` has a second key. From then on nobody gets in without one."""
    names = ("ann", "bob", "eve", "ann again")
    return {name: bearing(make_key(gateway, "review", owner=name.split()[0])) for name in names}


def said(
    gateway: Inside, case: str, who: dict[str, str], action: str, correction: str | None = None, **more: Any
) -> Any:
    body = {"action": action, **more} | ({} if correction is None else {"correction": correction})
    answer: Answer = gateway.call("POST", f"/v1/failures/{case}/resolve", body, who)
    assert answer.status == 200, answer.body
    return answer.json


def test_a_case_is_decided_when_two_say_the_same_and_not_by_two_keys_of_one(gateway: Inside) -> None:
    case = waiting(gateway)
    people = reviewers(gateway)
    first = said(gateway, case, people["ann"], "correct", RIGHT)
    assert (first["state"], first["resolved"], first["correction"]) == ("quarantine", None, None)
    assert first["waits"].startswith("for a second reviewer")
    assert said(gateway, case, people["ann again"], "correct", RIGHT)["resolved"] is None
    second = said(gateway, case, people["bob"], "correct", '{"urgency": "low", "intent": "refund"}')
    assert (second["state"], second["resolved_by"], second["waits"]) == ("corrected", "ann, bob", None)
    assert (
        gateway.call("POST", f"/v1/failures/{case}/resolve", {"action": "dismiss"}, people["eve"]).status
        == 409
    )


def test_a_reviewer_is_not_given_a_case_again_and_the_second_is_not_shown_the_first_word(
    gateway: Inside,
) -> None:
    case = waiting(gateway)
    people = reviewers(gateway)
    said(gateway, case, people["ann"], "correct", RIGHT)
    mine = claim(gateway, headers=people["ann"])
    assert (mine["case"], mine["waiting"], mine["seen"], mine["decided"]) == (None, 1, 1, 1)
    theirs = claim(gateway, headers=people["bob"])
    assert (theirs["case"]["id"], theirs["case"]["opinions"], theirs["seen"]) == (case, 1, 0)
    assert RIGHT not in str(theirs)


def test_those_who_differ_need_a_third(gateway: Inside) -> None:
    case = waiting(gateway)
    people = reviewers(gateway)
    said(gateway, case, people["ann"], "correct", RIGHT)
    assert "decided differently" in said(gateway, case, people["bob"], "correct", OTHER)["waits"]
    assert claim(gateway, headers=people["eve"])["case"]["opinions"] == 2
    assert said(gateway, case, people["eve"], "correct", OTHER)["resolved_by"] == "bob, eve"
    with gateway.gateway.database.reading() as session:
        assert agreement(session, "assistant") == Agreement(1, 0)
    gateway.gateway.live.refresh()
    page = gateway.call("GET", "/review", None, carried(sign_in(gateway, make_key(gateway, "review"))))
    assert "two reviewers agreed on <strong>0 %</strong> of 1" in page.body.decode()


def test_a_proposal_needs_two_as_well(gateway: Inside) -> None:
    case = waiting(gateway, proposed=RIGHT)
    people = reviewers(gateway)
    candidate = claim(gateway, headers=people["ann"])["case"]["proposals"][0]["candidate_id"]
    address = f"/v1/candidates/{candidate}/decide"
    first = gateway.call("POST", address, {"action": "accept"}, people["ann"])
    assert (first.status, first.json["state"]) == (200, "checked")
    assert claim(gateway, headers=people["ann"])["case"] is None
    assert claim(gateway, headers=people["bob"])["case"]["id"] == case
    gateway.call("POST", address, {"action": "accept"}, people["bob"])
    row = gateway.call("GET", "/v1/failures?state=corrected", None, people["bob"]).json["items"][0]
    assert (row["id"], row["correction"], row["resolved_by"]) == (case, RIGHT, "ann, bob")


def test_each_takes_back_their_own_word(gateway: Inside) -> None:
    case = waiting(gateway)
    people = reviewers(gateway)
    reopen = f"/v1/failures/{case}/reopen"
    said(gateway, case, people["ann"], "dismiss")
    assert gateway.call("POST", reopen, None, people["bob"]).status == 409
    assert gateway.call("POST", reopen, None, people["ann"]).json["waits"] is None
    for name in ("ann", "bob"):
        last = said(gateway, case, people[name], "dismiss")
    assert last["state"] == "dismissed"
    assert gateway.call("POST", reopen, None, people["bob"]).json["state"] == "quarantine"
    assert said(gateway, case, people["eve"], "dismiss")["resolved_by"] == "ann, eve"  # ann's stands
    assert gateway.call("POST", reopen, None, people["bob"]).status == 200  # who is none of them: all
    assert said(gateway, case, people["bob"], "dismiss")["resolved"] is None


def test_what_a_reviewer_wrote_goes_with_the_user_whom_it_is_about(gateway: Inside) -> None:
    case = waiting(gateway)
    people = reviewers(gateway)
    said(gateway, case, people["bob"], "correct", RIGHT)
    inner = gateway.gateway
    erase_user(inner.database, inner.settings, "ann", Actor("ada", None), inner.now)
    with inner.database.reading() as session:
        assert session.exec(select(ReviewOpinion)).all() == []


# -- all that are alike


def test_one_decision_on_all_that_are_alike_spares_what_others_look_at_and_is_taken_back(
    gateway: Inside,
) -> None:
    settings = gateway.gateway.settings
    gateway.gateway.settings = replace(settings, model=[replace(settings.model[0], reviewers=1)])
    cases = [waiting(gateway, "Where is my parcel with the green bow?") for _ in range(4)]
    other = waiting(gateway, f"Something else entirely {EVIL}")
    people = reviewers(gateway)
    held = claim(gateway, "bobs-page", people["bob"], first=cases[3])["case"]
    assert (held["id"], held["alike"]) == (cases[3], 4)
    done = said(gateway, cases[0], people["ann"], "correct", RIGHT, alike=True)
    assert sorted(done["also"]) == sorted(cases[1:3]) and done["state"] == "corrected"
    waits = gateway.call("GET", "/v1/failures?state=quarantine", None, people["ann"]).json["items"]
    assert {row["id"] for row in waits} == {cases[3], other}
    for one in (*done["also"], cases[0]):
        assert gateway.call("POST", f"/v1/failures/{one}/reopen", None, people["ann"]).status == 200
    with gateway.gateway.database.reading() as session:
        assert {row.state for row in session.exec(select(Failure))} == {"quarantine"}
    assert said(gateway, other, people["ann"], "dismiss", alike=True)["also"] == []
